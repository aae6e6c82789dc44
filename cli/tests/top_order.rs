//! `top` shows what is tightest first, and what is not known as `-` and last.

use powercap_cli::{caps::Caps, flags::What, top::decide::view};
use powercap_common::api::{NodeFrequencies, NodeFrequenciesSpec};

use crate::world::{domain, now, rack, stands_on_the_page};

#[test]
fn everything_is_shown_in_aligned_tables() {
    assert_eq!(
        view(&rack(), None, now()).text(),
        "\
DOMAIN  CAP W  POWER W  COMMITTED W  HEADROOM W  NODES  BRAKE  WITHIN  PENDING  REASON
rack    5000   4880     5000         0           2      None   True    0        GrantsFit

NODE    GRANT W  POWER W  HEADROOM W  OFFERS W  CEILING MHZ  BOARDS  REASON     HEARD
rack-1  2500     2440     60          350       1305         2       Enforcing  2s
rack-2  2500     2440     60          350       1305         2       Enforcing  2s

NAMESPACE  POLICY    MODE     CAP W  POWER W  PODS  BOARDS  CEILING MHZ  LIMIT W  PENDING  REASON
demo       training  Enforce  1050   1024     2     2       1410         525      0        Enforcing
"
    );
}

#[test]
fn the_page_shows_these_very_tables() {
    stands_on_the_page(&view(&rack(), None, now()).text());
}

#[test]
fn boards_are_shown_when_they_are_asked_for_the_hungriest_first() {
    assert_eq!(
        view(&rack(), Some(What::Boards), now()).text(),
        "\
NODE    BOARD         MHZ   CEILING  ASKED  MOST  W    LIMIT  ASKED  MOST  STATE    REASON           PODS
rack-1  GPU-8f3c1e2a  1410  1410     1410   1980  512  525    525    700   Applied  PolicyCap        demo/training-0
rack-2  GPU-c20e5f77  1410  1410     1410   1980  512  525    525    700   Applied  PolicyCap        demo/training-1
rack-1  GPU-1b7d90c4  1305  1305     -      1980  467  480    -      700   Applied  EnvelopeReached  demo/inference-0
rack-2  GPU-e5a8d613  1305  1305     -      1980  467  480    -      700   Applied  EnvelopeReached  demo/inference-1
"
    );
}

#[test]
fn the_least_headroom_stands_first_and_what_is_not_known_last() {
    let mut caps = rack();
    let mut roomy = domain("a-roomy-one", 9000);
    roomy.status.as_mut().unwrap().headroom_watts = Some(4000);
    let mut unknown = domain("an-unknown-one", 9000);
    unknown.status = None;
    caps.domains = vec![unknown, roomy, domain("rack", 5000)];
    let spec = NodeFrequenciesSpec { node_name: "a-new-one".into(), ..Default::default() };
    caps.nodes.insert(0, NodeFrequencies::new("a-new-one", spec));
    let view = view(&caps, None, now());
    let domains: Vec<_> = view.domains.iter().flatten().map(|row| row.name.as_str()).collect();
    assert_eq!(domains, ["rack", "a-roomy-one", "an-unknown-one"]);
    let nodes: Vec<_> = view.nodes.iter().flatten().map(|row| row.name.as_str()).collect();
    assert_eq!(nodes, ["rack-1", "rack-2", "a-new-one"]);
    let text = view.text();
    assert!(
        text.contains("an-unknown-one  9000   -        -            -           -      None   Unknown  -        -"),
        "{text}"
    );
    assert!(
        text.contains("a-new-one  -        -        -           -         -            -       -          -"),
        "{text}"
    );
}

#[test]
fn where_nothing_is_capped_that_is_said_and_what_may_not_be_read_too() {
    let unread = vec!["powerdomains".to_owned()];
    let text = view(&Caps { unread, ..Caps::default() }, None, now()).text();
    assert_eq!(text, "no node is capped\n\nno PowerCappingPolicy\n\nyou may not list powerdomains\n");
}
