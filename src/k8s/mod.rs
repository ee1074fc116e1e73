//! The front door: the only part that knows the Kubernetes API.
//!
//! It watches the cluster (or a folder of manifests), converts each object to a [`crate::model`] value at once, folds
//! the values into stores and publishes snapshots. Nothing behind this door sees a Kubernetes type.

pub mod annotations;
pub mod cluster;
pub mod convert;
pub mod folder;
pub mod store;

pub use cluster::Kind;
pub use folder::manifest::Report;
pub use folder::{FolderError, load_folder_once, load_text};
