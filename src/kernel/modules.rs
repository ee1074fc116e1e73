//! Kernel modules: which are there, and loading the ones we need (finit_module(2)).
