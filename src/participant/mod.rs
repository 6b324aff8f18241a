//! Participant.
