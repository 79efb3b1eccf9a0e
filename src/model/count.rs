//! Counting while pinhook runs, without a lock: things by label, and who is there now.
//! The numbers order nothing, hence `Relaxed` throughout.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

/// Declares an enum whose values are counted, each with its word where numbers are shown.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$what:meta])* $value:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$what])* $value,)+
        }

        impl $crate::model::count::Label for $name {
            const ALL: &'static [(Self, &'static str)] = &[$(($name::$value, $word)),+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

pub(crate) use labels;

/// One of a set by which something is counted: a reason, most often.
pub trait Label: Copy + 'static {
    /// All of the set, each with its word.
    const ALL: &'static [(Self, &'static str)];

    /// Where it stands among them.
    fn index(self) -> usize;
}

/// How often there was each of a set.
#[derive(Debug)]
pub struct ByLabel<L> {
    counts: Box<[AtomicU64]>,
    of: PhantomData<L>,
}

impl<L: Label> Default for ByLabel<L> {
    fn default() -> ByLabel<L> {
        ByLabel {
            counts: L::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            of: PhantomData,
        }
    }
}

impl<L: Label> ByLabel<L> {
    /// Counts `count` more.
    pub fn add(&self, label: L, count: usize) {
        self.counts[label.index()].fetch_add(count as u64, Ordering::Relaxed);
    }

    /// How often there was each, with its word, in the order of [`Label::ALL`].
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.counts.iter();
        let words = L::ALL.iter().map(|(_, word)| *word);
        words.zip(counts.map(|count| count.load(Ordering::Relaxed)))
    }
}

/// How many there are of something now.
#[derive(Debug, Default)]
pub struct Present(AtomicU64);

impl Present {
    /// One is there until the guard is dropped.
    pub fn enter(&self) -> Entered<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(self)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One that is there.
#[derive(Debug)]
pub struct Entered<'p>(&'p Present);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
