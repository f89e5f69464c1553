use super::*;
use crate::limits::Quota;

const NODE: NodeLimits =
    NodeLimits { connections: 9, connections_per_address: None, handshakes: None, handshakes_per_address: None };
const HOME: u128 = 7;

fn rates(per_second: u32) -> Rates {
    Rates { messages: Some(Rate::new(per_second, None)), bytes: None }
}

fn quotas(connection: Rates, user: Quota, address: Quota) -> Arc<Quotas> {
    Arc::new(Quotas { connection, user, address })
}

fn user_quotas(per_second: u32, connections: Option<u32>) -> Arc<Quotas> {
    quotas(Rates::default(), Quota { rates: rates(per_second), connections }, Quota::default())
}

/// A connection of `user` from `network`.
fn enter(
    accounts: &Arc<Accounts>,
    user: &str,
    network: u128,
    quotas: &Arc<Quotas>,
) -> Result<Option<Box<Meters>>, Limit> {
    let (endpoint, user) = (Arc::from("/ws"), Arc::from(user));
    let who = Who { endpoint: &endpoint, network, user: Some(&user) };
    accounts.meter(None, &who, (quotas, &NODE), Entering::New)
}

fn open(accounts: &Arc<Accounts>, user: &str, network: u128, quotas: &Arc<Quotas>) -> Box<Meters> {
    enter(accounts, user, network, quotas).expect("room").expect("limits")
}

fn passes(meters: &mut Meters, now_ms: u64, messages: usize) -> usize {
    (0..messages).filter(|_| meters.admit(now_ms, 1).is_ok()).count()
}

#[test]
fn connections_of_one_user_share_a_bucket_and_other_users_do_not() {
    let (accounts, quotas) = (Arc::default(), user_quotas(10, None));
    let (mut one, mut two) = (open(&accounts, "ann", 1, &quotas), open(&accounts, "ann", 2, &quotas));
    let mut bob = open(&accounts, "bob", 1, &quotas);
    assert_eq!(passes(&mut one, 0, 6) + passes(&mut two, 0, 6), 10);
    assert_eq!(two.admit(0, 1), Err(Excess { limit: Limit::UserMessages, retry_after_ms: 100 }));
    assert_eq!(passes(&mut bob, 0, 20), 10);
    let mut passed = 0;
    for now_ms in 1..=120_000 {
        passed += passes(if now_ms % 2 == 0 { &mut one } else { &mut two }, now_ms, 3);
    }
    assert_eq!(passed, 1200, "two minutes at ten a second, whoever of them sends");
}

#[test]
fn a_message_that_one_limit_refuses_takes_nothing_from_the_others() {
    let address = Quota { rates: rates(100), connections: None };
    let quotas = quotas(rates(1), Quota { rates: rates(10), connections: None }, address);
    let accounts = Arc::default();
    let mut flood = open(&accounts, "ann", HOME, &quotas);
    assert_eq!(passes(&mut flood, 0, 1000), 1);
    let mut others: Vec<_> = (0..12).map(|at| open(&accounts, &format!("u{at}"), HOME, &quotas)).collect();
    assert_eq!(others.iter_mut().map(|meters| passes(meters, 0, 5)).sum::<usize>(), 12);
    let mut same_user: Vec<_> = (0..12).map(|_| open(&accounts, "ann", HOME, &quotas)).collect();
    assert_eq!(same_user.iter_mut().map(|meters| passes(meters, 0, 1)).sum::<usize>(), 9, "one of ten was used");
    assert_eq!(flood.admit(0, 1).map_err(|excess| excess.limit), Err(Limit::Messages), "the longest wait is told");
}

#[test]
fn bytes_and_messages_are_held_against_every_limit() {
    let bytes = |per_second| Rates { messages: None, bytes: Some(Rate::new(per_second, None)) };
    let quota = |per_second| Quota { rates: bytes(per_second), connections: None };
    for (own, user, address, limit) in
        [(100, 200, 200, Limit::Bytes), (200, 100, 200, Limit::UserBytes), (200, 200, 100, Limit::AddressBytes)]
    {
        let accounts = Arc::default();
        let mut meters = open(&accounts, "ann", HOME, &quotas(bytes(own), quota(user), quota(address)));
        assert_eq!(meters.admit(0, 60), Ok(()));
        assert_eq!(meters.admit(0, 60), Err(Excess { limit, retry_after_ms: 200 }));
        assert_eq!(meters.admit(200, 60), Ok(()));
    }
    let accounts = Arc::default();
    let mut meters = open(
        &accounts,
        "ann",
        HOME,
        &quotas(Rates::default(), Quota::default(), Quota { rates: rates(1), connections: None }),
    );
    assert_eq!(meters.admit(0, 60), Ok(()));
    assert_eq!(meters.admit(0, 60), Err(Excess { limit: Limit::AddressMessages, retry_after_ms: 1000 }));
}

#[test]
fn connections_are_bounded_per_user_and_per_address_and_a_refusal_keeps_nothing() {
    let two = Quota { rates: Rates::default(), connections: Some(2) };
    let quotas = quotas(Rates::default(), two, Quota { connections: Some(3), ..two });
    let accounts = Arc::default();
    let (one, _two) = (open(&accounts, "ann", HOME, &quotas), open(&accounts, "ann", HOME, &quotas));
    assert_eq!(enter(&accounts, "ann", HOME, &quotas).err(), Some(Limit::UserConnections));
    let _bob = open(&accounts, "bob", HOME, &quotas);
    assert_eq!(enter(&accounts, "cid", HOME, &quotas).err(), Some(Limit::AddressConnections));
    assert!(enter(&accounts, "cid", HOME + 1, &quotas).is_ok());
    drop(one);
    assert!(enter(&accounts, "ann", HOME, &quotas).is_ok(), "the place is free");
    assert!(enter(&accounts, "cid", HOME, &quotas).is_ok(), "and so is the address's");
}

#[test]
fn connections_of_an_address_are_bounded_over_all_endpoints() {
    let node = NodeLimits { connections_per_address: Some(1), ..NODE };
    let (accounts, none) = (Arc::<Accounts>::default(), Arc::default());
    let (a, b) = (Arc::from("/a"), Arc::from("/b"));
    let enter = |endpoint| {
        let who = Who { endpoint, network: HOME, user: None };
        accounts.meter(None, &who, (&none, &node), Entering::New)
    };
    let first = enter(&a).expect("room");
    assert_eq!(enter(&b).err(), Some(Limit::NodeAddressConnections));
    drop(first);
    assert!(enter(&b).is_ok());
}

#[test]
fn an_account_goes_when_its_connections_are_gone_and_its_buckets_are_empty() {
    let (accounts, quotas) = (Arc::default(), user_quotas(10, Some(5)));
    let unused = open(&accounts, "quiet", HOME, &quotas);
    let mut used = open(&accounts, "ann", HOME, &quotas);
    assert_eq!(passes(&mut used, 1000, 20), 10);
    assert_eq!(accounts.len(), 2);
    drop(unused);
    assert_eq!(accounts.len(), 1, "a bucket that was never used need not be kept");
    drop(used);
    accounts.sweep(1999);
    let mut again = open(&accounts, "ann", HOME, &quotas);
    assert_eq!(passes(&mut again, 1999, 20), 9, "who comes again finds what it left");
    drop(again);
    accounts.sweep(2899);
    assert_eq!(accounts.len(), 1, "nine more came since");
    accounts.sweep(2900);
    assert_eq!(accounts.len(), 0);
    assert!(accounts.book.lock().idle.is_empty());
}

#[test]
fn an_account_in_use_outlives_every_sweep() {
    let (accounts, quotas) = (Arc::default(), user_quotas(10, None));
    let mut first = open(&accounts, "ann", HOME, &quotas);
    assert_eq!(passes(&mut first, 0, 1), 1);
    drop(first);
    let mut second = open(&accounts, "ann", HOME, &quotas);
    accounts.sweep(1_000_000);
    let mut third = open(&accounts, "ann", HOME, &quotas);
    assert_eq!(passes(&mut second, 1_000_000, 6) + passes(&mut third, 1_000_000, 6), 10, "one account for both");
    drop((second, third));
    accounts.sweep(1_001_000);
    assert!(accounts.is_empty());
}

#[test]
fn open_connections_come_under_new_limits_without_being_refused() {
    let accounts = Arc::<Accounts>::default();
    let (endpoint, user) = (Arc::from("/ws"), Arc::from("ann"));
    let who = Who { endpoint: &endpoint, network: HOME, user: Some(&user) };
    let none = Arc::default();
    let unlimited = accounts.meter(None, &who, (&none, &NODE), Entering::New).expect("room");
    assert!(unlimited.is_none() && accounts.is_empty(), "nothing is kept where nothing is limited");
    let one = user_quotas(10, Some(1));
    let renew = |held| accounts.meter(held, &who, (&one, &NODE), Entering::Open).expect("always").expect("limits");
    let (mut first, mut second) = (renew(None), renew(None));
    assert_eq!(enter(&accounts, "ann", HOME, &one).err(), Some(Limit::UserConnections));
    assert_eq!(passes(&mut first, 0, 6) + passes(&mut second, 0, 6), 10);
    let faster = user_quotas(1000, Some(1));
    let mut first =
        accounts.meter(Some(first), &who, (&faster, &NODE), Entering::Open).expect("always").expect("limits");
    assert_eq!(passes(&mut first, 10, 2000), 1000, "what was in the bucket has run out at the new rate");
    let gone = accounts.meter(Some(first), &who, (&none, &NODE), Entering::Open).expect("always");
    assert!(gone.is_none());
    drop(second);
    accounts.sweep(1_000_000);
    assert!(accounts.is_empty());
}

#[test]
fn another_user_s_account_takes_the_place_of_the_first() {
    let (accounts, quotas) = (Arc::<Accounts>::default(), user_quotas(10, Some(1)));
    let held = open(&accounts, "certificate", HOME, &quotas);
    let (endpoint, user) = (Arc::from("/ws"), Arc::from("ann"));
    let who = Who { endpoint: &endpoint, network: HOME, user: Some(&user) };
    let held = accounts.meter(Some(held), &who, (&quotas, &NODE), Entering::New).expect("room");
    assert_eq!(enter(&accounts, "ann", HOME, &quotas).err(), Some(Limit::UserConnections));
    assert!(enter(&accounts, "certificate", HOME, &quotas).is_ok());
    drop(held);
    assert!(accounts.is_empty());
}

#[test]
fn handshakes_have_a_rate_for_each_address_and_one_for_the_node() {
    let accounts = Accounts::default();
    let rate = |per_second| Some(Rate::new(per_second, None));
    let limits = NodeLimits { handshakes: rate(20), handshakes_per_address: rate(5), ..NODE };
    let knocks =
        |now_ms, network, count| (0..count).filter(|_| accounts.knock(now_ms, network, &limits).is_ok()).count();
    assert_eq!(knocks(0, 1, 100), 5);
    assert_eq!(accounts.knock(0, 1, &limits), Err(Excess { limit: Limit::AddressHandshakes, retry_after_ms: 200 }));
    assert_eq!((2..10).map(|network| knocks(0, network, 5)).sum::<usize>(), 15, "the flood took but its own five");
    assert_eq!(accounts.knock(0, 99, &limits), Err(Excess { limit: Limit::Handshakes, retry_after_ms: 50 }));
    assert_eq!((1..=60_000).map(|now_ms| knocks(now_ms, 1, 1)).sum::<usize>(), 300, "a minute at five a second");
    accounts.sweep(61_000);
    assert!(accounts.is_empty(), "addresses that are gone are forgotten");
    let alone = NodeLimits { handshakes_per_address: None, ..limits };
    assert!(accounts.knock(100_000, 1, &alone).is_ok() && accounts.is_empty(), "nothing is kept for an address");
}

#[test]
fn idle_accounts_are_bounded_and_the_first_to_be_empty_give_way() {
    let accounts = Accounts::default();
    let limits = NodeLimits { handshakes_per_address: Some(Rate::new(1, Some(100))), ..NODE };
    for _ in 0..50 {
        accounts.knock(0, u128::MAX, &limits).expect("room");
    }
    for network in 0..IDLE_MAX as u128 + 10 {
        accounts.knock(0, network, &limits).expect("room");
    }
    assert_eq!(accounts.len(), IDLE_MAX);
    let left = (0..100).filter(|_| accounts.knock(0, u128::MAX, &limits).is_ok()).count();
    assert_eq!(left, 50, "the one that sent most is remembered");
}
