//! What every [`Conntrack`] must do.
