//! The parsers read the very pages that exporters print: the golden files of the simulator's exporters,
//! each stamped with the version of the real one, scraped as Prometheus does it.

use jiff::Timestamp;
use powercap_common::units::{Megahertz, Watts};
use powercap_recommender::{
    observation::PodName,
    observe::{answer::Element, dcgm, kepler, names::Names},
};

/// When the scrape was, in seconds since 1970; the query is evaluated 2 s later.
const SCRAPED_AT: f64 = 1_800_000_000.0;

fn page(file: &str) -> String {
    let path = format!("{}/../simulator/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

/// The answers to a query for a series of the page and to that for its time. With `honor_labels: false`
/// a label that the target has too is renamed `exported_…`.
fn scraped(page: &str, series: &str, honor_labels: bool) -> (Vec<Element>, Vec<Element>) {
    let target = [("namespace", "gpu-operator"), ("pod", "exporter-x"), ("container", "exporter")];
    let lines = page.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix('{'));
    let elements = lines.map(|line| {
        let (labels, value) = line.split_once("} ").unwrap();
        let mut all: std::collections::BTreeMap<_, _> =
            target.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        for label in labels.split("\",") {
            let (name, value) = label.trim_end_matches('"').split_once("=\"").unwrap();
            let renamed = !honor_labels && all.contains_key(name);
            all.insert(if renamed { format!("exported_{name}") } else { name.to_owned() }, value.to_owned());
        }
        Element {
            labels: all.into_iter().collect(),
            others: 0,
            evaluated_at: SCRAPED_AT + 2.0,
            value: value.parse().unwrap(),
        }
    });
    let elements: Vec<_> = elements.collect();
    let times = elements.iter().map(|element| Element { value: SCRAPED_AT, ..element.clone() }).collect();
    (elements, times)
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_002).unwrap()
}

#[test]
fn a_page_of_the_dcgm_exporter_gives_power_clock_node_and_tenant_of_each_board() {
    let page = page("dcgm-exporter-4.8.2.prom");
    for honor_labels in [false, true] {
        let (power, power_times) = scraped(&page, "DCGM_FI_DEV_POWER_USAGE", honor_labels);
        let (clock, clock_times) = scraped(&page, "DCGM_FI_DEV_SM_CLOCK", honor_labels);
        let gpus = dcgm::readings(&power, &power_times, &clock, &clock_times, now(), &Names::default().dcgm);
        assert_eq!(gpus.len(), 2);
        let train = &gpus["GPU-db01633e-c8bf-3869-28c9-419e426f98e4"];
        let tenant = PodName { namespace: "team-a".into(), name: "train-0".into() };
        assert_eq!(train.tenants, [tenant], "honor_labels: {honor_labels}");
        assert_eq!(train.node.as_deref(), Some("node-1"));
        assert_eq!(train.power.unwrap().value, Watts::from_milliwatts(612_345));
        assert_eq!(train.clock.unwrap().value, Megahertz::new(1755));
        assert_eq!(now().duration_since(train.power.unwrap().at).as_secs(), 2);
    }
}

#[test]
fn a_page_of_kepler_gives_cpu_power_of_nodes_and_running_pods() {
    let page = page("kepler-0.11.4.prom");
    let (pods, pod_times) = scraped(&page, "kepler_pod_cpu_watts", false);
    let pods = kepler::pods(&pods, &pod_times, now(), &Names::default());
    assert_eq!(pods[&PodName { namespace: "team-a".into(), name: "train-0".into() }].value, Watts::new(120));
    let (nodes, node_times) = scraped(&page, "kepler_node_cpu_watts", false);
    assert_eq!(kepler::nodes(&nodes, &node_times, now(), &Names::default())["node-1"].value, Watts::new(320));
}
