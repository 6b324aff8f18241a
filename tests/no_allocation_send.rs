//! Sending and repeating media takes no memory from the allocator.
#![expect(unsafe_code, reason = "a global allocator that counts")]

#[path = "support/counting.rs"]
mod counting;

use counting::ALLOCATIONS;
use roomful::media::clip::{ClipLibrary, PAYLOAD_MAX};
use roomful::media::send::MediaSender;
use roomful::media::stamp;
use roomful::types::Codec;
use std::hint::black_box;
use std::time::Instant;

#[test]
fn next_repeat_and_find_allocate_nothing() {
    let library = ClipLibrary::load().unwrap();
    let before = ALLOCATIONS.get();
    black_box(Box::new(7));
    assert_eq!(ALLOCATIONS.get(), before + 1, "the counter counts");
    for encoding in library.encodings() {
        let clip = library.clip(encoding).unwrap();
        let start = Instant::now();
        let mut sender = MediaSender::new(clip, 1, 2, 1, 3, start);
        let mut buf = [0; PAYLOAD_MAX];
        let video = encoding.codec != Codec::Opus;
        if video {
            let below = library.encodings().filter(|e| e.bitrate.0 < encoding.bitrate.0);
            sender.add_steps(below.map(|e| library.clip(e).unwrap()));
        }
        sender.start(start);
        let before = ALLOCATIONS.get();
        for n in 0..3000 {
            let now = sender.next_due().unwrap();
            let out = sender.next(now, 1_700_000_000_000_000_000, &mut buf).unwrap();
            black_box(stamp::find(encoding.codec, &buf[..out.len]));
            assert!(sender.repeat(now, out.seq, &mut buf).is_some());
            if n % 150 == 0 && video {
                sender.step_to(n / 150 % sender.steps().len().max(1));
            }
            if n % 100 == 0 {
                sender.request_key_frame(now);
            }
        }
        assert_eq!(ALLOCATIONS.get(), before, "{encoding}");
        assert_eq!(sender.packets_sent(), 3000);
    }
}
