//! The versioned device-state package: what moves of a VM beside its RAM.
//!
//! A package is a list of sections, each the saved form of one component. A saved form is a type
//! of its own, never the runtime type; it is encoded as CBOR with named fields, so that an unknown
//! field is an error (`#[serde(deny_unknown_fields)]` on every saved type) and a field's name is
//! never given another meaning.
//!
//! A package may come from a hostile peer. Decoding never panics, takes no memory beyond a small
//! multiple of the bytes that are really there, and its recursion is bounded.

mod body;
pub mod bytes;
mod package;

pub use body::{decode_body, encode_body};
pub use package::{MAX_NAME_BYTES, MAX_SECTIONS, Package, PackageBuilder, Section};

use serde::{Serialize, de::DeserializeOwned};

/// Why a state cannot be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The bytes are not what the format says.
    #[error("{what}: {reason}")]
    Malformed {
        /// Which component or part of the package.
        what: String,
        /// What is wrong, with the numbers.
        reason: String,
    },
    /// The state was saved by a version that this one does not know.
    #[error("{what}: saved as version {found}, this program knows versions 1 to {known}")]
    Version {
        /// Which component.
        what: String,
        /// Version in the package.
        found: u32,
        /// Highest version known here.
        known: u32,
    },
    /// A section that the machine needs is not there.
    #[error("device state has no section {0:?}; source and destination differ in their devices")]
    Absent(String),
    /// A section is left over: nothing here takes it.
    #[error(
        "device state has sections that nothing here takes: {0}; source and destination differ in their devices"
    )]
    LeftOver(String),
    /// A component refuses a value.
    #[error("{what}: {reason}")]
    Refused {
        /// Which component.
        what: String,
        /// Why, with the numbers.
        reason: String,
    },
}

impl StateError {
    /// A refusal of a value by the component `what`.
    pub fn refused(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), reason: reason.into() }
    }

    /// Bytes of `what` that are not what the format says.
    pub fn malformed(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Malformed { what: what.into(), reason: reason.into() }
    }
}

/// A component whose state moves with the VM.
///
/// Both methods take `&self`: components are shared with the threads that use them, so their state
/// sits behind a lock or in atomics anyway.
pub trait SaveRestore {
    /// The saved form. Fields are never renamed to another meaning; new ones need a new version.
    type Saved: Serialize + DeserializeOwned;

    /// Version of the saved form that `save` writes; `restore` takes 1 to this.
    const VERSION: u32;

    /// The state now. The component is quiescent.
    fn save(&self) -> Self::Saved;

    /// Replaces the state.
    ///
    /// # Errors
    /// When a value cannot be; the component must then not be used.
    fn restore(&self, saved: Self::Saved) -> Result<(), StateError>;

    /// Makes the saved form of this version from the body of a section of `version`, which lies in
    /// 1 to [`SaveRestore::VERSION`]. Components that have changed their form say here how an old
    /// one becomes a new one.
    ///
    /// # Errors
    /// When the bytes are not that form.
    fn decode(what: &str, version: u32, body: &[u8]) -> Result<Self::Saved, StateError> {
        let _ = version;
        decode_body(what, body)
    }
}
