//! OpenMetrics text as the older text format of Prometheus, for scrapers that ask for no other. Pure.

use std::fmt::Write as _;

/// The content type of what `classic` makes.
pub const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// There a counter's lines about itself bear its whole name, and units and the end are not written.
pub fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = "";
    for line in open.lines() {
        let mut words = line.splitn(4, ' ');
        // Writing to a String does not fail.
        let _ = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), about) => {
                // Its kind comes behind it.
                help = about.unwrap_or_default();
                Ok(())
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
                let kind = if kind == "unknown" { "untyped" } else { kind };
                writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", std::mem::take(&mut help))
            }
            (Some("#"), ..) => Ok(()),
            _ => writeln!(text, "{line}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_bear_their_whole_name_and_units_and_the_end_are_left_out() {
        let open = "# HELP a_seconds How long.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\na_seconds_sum{x=\"# y\"} 1.0\n\
                    # HELP b Some more.\n# TYPE b counter\nb_total 3\n# HELP c A last.\n# TYPE c unknown\nc 1\n# EOF\n";
        let expected = "# HELP a_seconds How long.\n# TYPE a_seconds histogram\na_seconds_sum{x=\"# y\"} 1.0\n\
                        # HELP b_total Some more.\n# TYPE b_total counter\nb_total 3\n# HELP c A last.\n# TYPE c untyped\nc 1\n";
        assert_eq!(classic(open), expected);
    }
}
