//! The simulated ring: whole participants against the sans-I/O embedded SFU, linked in memory, in virtual time. No
//! sockets, seeded, minutes of calls in seconds.

mod adaptation;
mod clients;
mod last_n;
mod layers;
mod moves;
mod presets;
mod rooms;
mod sim;
mod virtual_run;
