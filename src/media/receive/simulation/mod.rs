//! Whole streams in virtual time: the receiver's counts against what the simulation knows.

mod e2e;
mod hostile;
mod rtp;
mod world;
