//! What quiet connections hold of the real program's memory, also after they were busy. The figures are of a build without optimization
//! and include what the allocator keeps; docs/PERFORMANCE.md has those of a release.

use crate::harness::{Process, Raw, Upstream, eventually, frame, yaml};

const CONNECTIONS: usize = 2000;
/// Of each connection: raise it only with a reason.
const BYTES_MAX: u64 = 2200;
const TEXT: u8 = 0x81;

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_connection_holds_little_also_after_it_was_busy() {
    let app = Upstream::echo().await;
    let process = Process::start_yaml(&yaml(&app.url(), "", "routes: [{event: \"*\", upstream: app}]"), &[]).await;
    let carry = async |raw: &mut Raw| {
        let message = format!(r#"{{"type":"a","pad":"{}"}}"#, "x".repeat(1500));
        assert!(raw.write(&frame(TEXT, message.as_bytes())).await);
        assert_eq!(raw.frame().await, Some((TEXT, message.into())));
    };
    // What the first ones bring about is the program's, not theirs.
    let mut first = Vec::new();
    for _ in 0..100 {
        let mut raw = Raw::open(process.listen).await;
        carry(&mut raw).await;
        first.push(raw);
    }
    let before = process.resident_bytes();
    let each = || process.resident_bytes().saturating_sub(before) / CONNECTIONS as u64;
    let mut quiet = Vec::new();
    while quiet.len() < CONNECTIONS {
        quiet.push(Raw::open(process.listen).await);
    }
    let settled = async || Some(each()).filter(|each| *each <= BYTES_MAX);
    println!("{} bytes each", eventually("quiet connections are small", settled).await);
    for raw in &mut quiet {
        carry(raw).await;
    }
    println!("{} bytes each after 1,500 bytes", eventually("they are small again", settled).await);
}
