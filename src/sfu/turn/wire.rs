//! Messages as they go out, and their borders in a stream.

use std::net::SocketAddr;
use turn_types::attribute::{Data, XorPeerAddress};
use turn_types::message::DATA;
use turn_types::stun::attribute::{AttributeType, ErrorCode, Software, UnknownAttributes};
use turn_types::stun::message::{
    IntegrityAlgorithm, IntegrityKey, Message, MessageClass, MessageType, MessageWriteVec, StunWriteError,
    TransactionId,
};
use turn_types::stun::prelude::*;

/// A response under construction.
pub struct Reply(MessageWriteVec);

impl Reply {
    /// `request` has to be one.
    pub fn success(request: &Message<'_>) -> Reply {
        Reply(Message::builder_success(request, MessageWriteVec::with_capacity(128)))
    }

    /// `request` has to be one.
    pub fn error(request: &Message<'_>, code: u16) -> Result<Reply, StunWriteError> {
        Reply(Message::builder_error(request, MessageWriteVec::with_capacity(128)))
            .with(&ErrorCode::builder(code).build()?)?
            .with(&Software::new("roomful")?)
    }

    pub fn unknown_attributes(request: &Message<'_>, types: &[AttributeType]) -> Result<Reply, StunWriteError> {
        Reply::error(request, ErrorCode::UNKNOWN_ATTRIBUTE)?.with(&UnknownAttributes::new(types))
    }

    pub fn with(mut self, attribute: &dyn AttributeWrite) -> Result<Reply, StunWriteError> {
        self.0.add_attribute(attribute)?;
        Ok(self)
    }

    pub fn signed(mut self, key: &IntegrityKey) -> Result<Vec<u8>, StunWriteError> {
        self.0.add_message_integrity_with_key(key, IntegrityAlgorithm::Sha1)?;
        self.unsigned()
    }

    pub fn unsigned(mut self) -> Result<Vec<u8>, StunWriteError> {
        self.0.add_fingerprint()?;
        Ok(self.0.finish())
    }
}

/// What came from a peer to whom no channel is bound (RFC 8656 11.3).
pub fn data_indication(from: SocketAddr, data: &[u8]) -> Result<Vec<u8>, StunWriteError> {
    let tid = TransactionId::generate();
    let head = MessageType::from_class_method(MessageClass::Indication, DATA);
    let message = MessageWriteVec::with_capacity(data.len() + 48);
    let mut message = Message::builder(head, tid, message);
    message.add_attribute(&XorPeerAddress::new(from, tid))?;
    message.add_attribute(&Data::new(data))?;
    Ok(message.finish())
}

/// ChannelData; over a stream it is padded to four bytes (RFC 8656 12.5).
pub fn channel_data(out: &mut Vec<u8>, number: u16, data: &[u8], stream: bool) {
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(data);
    if stream {
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// Length of the message at the beginning of a stream's bytes, padding included.
///
/// # Errors
/// These bytes are the beginning of none.
pub fn framed(bytes: &[u8]) -> Result<Option<usize>, NoFrame> {
    let Some(head) = bytes.first_chunk::<4>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let whole = match head[0] {
        0..=0x3f => 20 + len,
        0x40..=0x7f => (4 + len).next_multiple_of(4),
        _ => return Err(NoFrame),
    };
    Ok((bytes.len() >= whole).then_some(whole))
}

/// Neither STUN nor ChannelData.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoFrame;
