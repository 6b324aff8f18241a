//! The fuzz targets that use what everybody can use are built, and take a few inputs, without a fuzzer: so they stay right.
//! The others are doors in `roomful::fuzzing`, which the library's own tests go through.

// The targets name the fuzzer's crate, and get a macro of its name.
extern crate self as libfuzzer_sys;

/// Makes of a target a function that takes bytes.
#[macro_export]
macro_rules! fuzz_target {
    (|$input:ident: &[u8]| $body:expr) => {
        pub fn take($input: &[u8]) {
            $body
        }
    };
    (|$input:ident: &str| $body:expr) => {
        pub fn take(bytes: &[u8]) {
            if let Ok($input) = std::str::from_utf8(bytes) {
                $body
            }
        }
    };
}

macro_rules! targets {
    ($($name:ident $path:literal;)*) => {
        $(
            #[allow(unused_attributes, unused_imports, reason = "it is a crate of its own there")]
            #[path = $path]
            mod $name;
        )*
        const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name::take)),*];
    };
}

targets! {
    datagram "../fuzz/fuzz_targets/datagram.rs";
    history "../fuzz/fuzz_targets/history.rs";
    profile "../fuzz/fuzz_targets/profile.rs";
    rtcp "../fuzz/fuzz_targets/rtcp.rs";
    rtp "../fuzz/fuzz_targets/rtp.rs";
    sdp "../fuzz/fuzz_targets/sdp.rs";
    stamp "../fuzz/fuzz_targets/stamp.rs";
}

#[test]
fn every_target_takes_anything() {
    let rtp = [&[0x90, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0xbe, 0xde, 0, 1, 0x10, 0x85, 0, 0][..], &[7; 40]].concat();
    let rtcp = [0x80, 201, 0, 1, 0, 0, 0, 1, 0x81, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 5, 0, 0];
    let sdp = b"v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\n";
    let line = b"{\"t\":1.0,\"ev\":\"phase\",\"phase\":\"hold\"}\n";
    for (name, take) in TARGETS {
        println!("{name}");
        for input in [&b""[..], &rtp, &rtcp, sdp, line, include_bytes!("../profiles/demo.toml"), &[0xff; 100]] {
            take(input);
        }
    }
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/fuzz_targets")).unwrap();
    let texts = files.map(|f| std::fs::read_to_string(f.unwrap().path()).unwrap());
    let open = texts.filter(|t| !t.contains("roomful::fuzzing::")).count();
    assert_eq!(open, TARGETS.len(), "a target is missing above");
}
