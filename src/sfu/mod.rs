//! Embedded SFU.
