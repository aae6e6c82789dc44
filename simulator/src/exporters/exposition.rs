//! Prometheus' text format, as Go programs print it.

use std::fmt::Write;

/// A page being written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// Begins a metric: `kind` is `gauge`, `counter` or `histogram`.
    pub fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One sample; labels are printed in the order given.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        self.text.push_str(name);
        let mut before = '{';
        for (label, text) in labels {
            let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let _ = write!(self.text, "{before}{label}=\"{text}\"");
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// The page.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }
}

/// A cumulative histogram.
#[derive(Debug, Clone)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
    count: u64,
}

impl Histogram {
    /// Empty, with upper bounds that rise.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len()], sum: 0.0, count: 0 }
    }

    /// Sees a value, `times` over.
    pub fn observe(&mut self, value: f64, times: u64) {
        for (count, bound) in self.counts.iter_mut().zip(self.bounds) {
            if value <= *bound {
                *count += times;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a count")]
        let many = times as f64;
        self.sum += value * many;
        self.count += times;
    }

    /// Prints itself.
    pub fn write(&self, page: &mut Page, name: &str, help: &str, labels: &[(&str, &str)]) {
        page.begin(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut with_bound = labels.to_vec();
        with_bound.push(("le", ""));
        let last = with_bound.len() - 1;
        for (count, bound) in self.counts.iter().zip(self.bounds) {
            let bound = format!("{bound:?}");
            let mut labels: Vec<(&str, &str)> = with_bound.clone();
            labels[last].1 = &bound;
            page.sample(&bucket, &labels, &count.to_string());
        }
        with_bound[last].1 = "+Inf";
        page.sample(&bucket, &with_bound, &self.count.to_string());
        page.sample(&format!("{name}_sum"), labels, &self.sum.to_string());
        page.sample(&format!("{name}_count"), labels, &self.count.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_a_bare_metric_has_no_braces() {
        let mut page = Page::default();
        page.begin("m", "gauge", "Help.");
        page.sample("m", &[], "1");
        page.sample("m", &[("a", "x\"y"), ("b", "")], "2");
        assert_eq!(page.finish(), "# HELP m Help.\n# TYPE m gauge\nm 1\nm{a=\"x\\\"y\",b=\"\"} 2\n");
    }

    #[test]
    fn a_histogram_accumulates() {
        let mut histogram = Histogram::new(&[0.1, 1.0]);
        histogram.observe(0.05, 2);
        histogram.observe(5.0, 1);
        let mut page = Page::default();
        histogram.write(&mut page, "h", "H.", &[("x", "y")]);
        let text = page.finish();
        assert!(text.contains("h_bucket{x=\"y\",le=\"0.1\"} 2\n"), "{text}");
        assert!(text.contains("h_bucket{x=\"y\",le=\"+Inf\"} 3\n") && text.contains("h_count{x=\"y\"} 3\n"));
    }
}
