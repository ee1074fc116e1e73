//! Watches a folder.
