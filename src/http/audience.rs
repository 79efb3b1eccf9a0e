//! Who may read what pinhook shows of itself over HTTP.

/// Who may read `/metrics` (product.md §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Audience {
    /// Local requests only.
    #[default]
    Local,
    /// Whoever can connect.
    Public,
    /// Nobody: there is no such path.
    Off,
}
