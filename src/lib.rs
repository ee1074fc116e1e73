//! Ferrovia.
