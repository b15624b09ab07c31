//! Where the content of a weight comes from.

use std::sync::Arc;

use crate::Result;

/// What gives the values, or the bytes, of a weight when it is loaded, and perhaps later, whenever
/// they are wanted.
pub(crate) struct Source<'a, T> {
    once: Box<dyn FnOnce() -> Result<Vec<T>> + 'a>,
    again: Option<Again<T>>,
}

/// Gives the same time and again.
pub(crate) type Again<T> = Arc<dyn Fn() -> Result<Vec<T>> + Send + Sync>;

impl<'a, T: 'static> Source<'a, T> {
    /// What can be read once.
    pub fn once(read: impl FnOnce() -> Result<Vec<T>> + 'a) -> Self {
        Self { once: Box::new(read), again: None }
    }

    /// The same, which `again` gives later.
    pub fn or_again(self, again: Again<T>) -> Self {
        Self { again: Some(again), ..self }
    }

    pub fn read(self) -> Result<Vec<T>> {
        (self.once)()
    }

    pub fn again(&self) -> Option<Again<T>> {
        self.again.clone()
    }

    /// What `convert` makes of it, each time.
    pub fn then<U: 'static>(
        self,
        convert: impl Fn(Vec<T>) -> Result<Vec<U>> + Clone + Send + Sync + 'static,
    ) -> Source<'a, U> {
        let (once, later) = (self.once, convert.clone());
        let again = self.again.map(|read| Arc::new(move || later(read()?)) as Again<U>);
        Source { once: Box::new(move || convert(once()?)), again }
    }
}
