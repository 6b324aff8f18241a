//! RTCP compounds from outside: parse, walk every list, and open as SRTCP.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roomful::media::rtcp::{self, Packet};
use roomful::media::srtp::RtcpOpener;
use roomful::types::Suite;

fuzz_target!(|data: &[u8]| {
    let mut packets = 0;
    for packet in rtcp::parse(data) {
        packets += 1;
        let Ok(packet) = packet else { continue };
        let _entries = match packet {
            Packet::SenderReport(report) => report.blocks.iter().count(),
            Packet::ReceiverReport(report) => report.blocks.iter().count(),
            Packet::Sdes(sdes) => sdes.items().count() + sdes.cnames().count(),
            Packet::Bye(bye) => bye.ssrcs().count() + bye.reason.len(),
            Packet::Nack(nack) => nack.seqs().count(),
            Packet::Twcc(twcc) => {
                assert_eq!(twcc.deltas().count(), usize::from(twcc.status_count));
                twcc.arrivals().count()
            }
            Packet::Pli(_) => 1,
            Packet::Fir(fir) => fir.requests().count(),
            Packet::Remb(remb) => remb.ssrcs().count(),
        };
    }
    assert!(packets <= data.len() / 4 + 1);

    for suite in [Suite::Aes128CmSha1_80, Suite::AeadAes128Gcm] {
        let mut opener = RtcpOpener::new(suite, &[1; 16], &[2; 14]);
        assert!(opener.open(&mut data.to_vec()).is_err());
    }
});
