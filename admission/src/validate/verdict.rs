//! What is made of an object.

/// What is made of an object; by default it is let in without a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it is refused: field, value and mend.
    pub refused: Option<String>,
    /// What whoever wrote it should know.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// Refused for this.
    #[must_use]
    pub fn refuse(why: impl Into<String>) -> Self {
        Self { refused: Some(why.into()), warnings: Vec::new() }
    }

    /// The same with a warning.
    #[must_use]
    pub fn warn(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }
}

/// The first of these names, and how many more.
pub fn some_of<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(3);
    let shown: Vec<_> = names.take(3).collect();
    shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}
