#!/usr/bin/env bash
# Makes the media clips in src/media/clips again. Needs ffmpeg with libx264, libvpx and libopus (made with Debian 12's
# 5.1.9; another version gives other bytes, and then the bounds in src/media/clip/mod.rs may want a new look).
#
# usage: tools/make-clips.sh [DIR]     default: src/media/clips
#
# Video: 4 s, 30 frames/s, a test pattern with moving parts, clock and frame counter; a key frame every 2 s and at the
# start, so that the last frame may be followed by the first. 6 s are encoded and the first 2 s thrown away: rate
# control has settled by then. Encoders aim a little beside the nominal rate where that is what it takes to hit it
# over the 4 s; the small rate-control buffers keep key frames small (at most 6 average frames).
set -euo pipefail

out=${1:-"$(dirname "$0")/../src/media/clips"}
mkdir -p "$out"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

ff() { ffmpeg -nostdin -hide_banner -v error -y "$@"; }

# settled NAME MUXER: cuts the settled 4 s out of $tmp/long.nut.
settled() {
    ff -ss 2 -i "$tmp/long.nut" -c copy -frames:v 120 -fflags +bitexact -f "$2" "$out/$1"
}

# h264 NAME SIZE KBIT BUFFER_KBIT
# Constrained baseline, one slice per RTP packet: 1000 bytes leave room for parameter sets, the SEI stamp and STAP-A's
# lengths in a payload of 1100. Parameter sets before each key frame; x264's own SEI (type 6) is dropped.
h264() {
    ff -f lavfi -i "testsrc2=size=$2:rate=30:duration=6" -pix_fmt yuv420p \
        -c:v libx264 -threads 1 -profile:v baseline -preset slow -b:v "$3k" -maxrate "$3k" -bufsize "$4k" \
        -g 60 -keyint_min 60 -sc_threshold 0 -bf 0 \
        -x264-params "slice-max-size=1000:repeat-headers=1:force-cfr=1" \
        -bsf:v filter_units=remove_types=6 -f nut "$tmp/long.nut"
    settled "$1" h264
}

# vp8 NAME SIZE KBIT BUFFER_KBIT
# No hidden frames (auto-alt-ref) and no look-ahead, as in a call.
vp8() {
    ff -f lavfi -i "testsrc2=size=$2:rate=30:duration=6" -pix_fmt yuv420p \
        -c:v libvpx -threads 1 -deadline good -cpu-used 0 -b:v "$3k" -minrate "$3k" -maxrate "$3k" -bufsize "$4k" \
        -g 60 -keyint_min 60 -auto-alt-ref 0 -lag-in-frames 0 -max-intra-rate 300 -f nut "$tmp/long.nut"
    settled "$1" ivf
}

h264 h264-150k.h264 320x180 159 33
h264 h264-500k.h264 640x360 518 65
h264 h264-1500k.h264 1280x720 1512 187
vp8 vp8-150k.ivf 320x180 150 18
vp8 vp8-500k.ivf 640x360 500 62
vp8 vp8-1500k.ivf 1280x720 1500 187

# Audio: 10 s like speech: harmonics of a gliding voice, four syllables a second with a hiss between, four phrases of
# 2.5 s at 0, -10, -4 and -18 dB with pauses, over the faint noise of a room. Quiet at both ends, so that it loops.
# Constant bit rate, 20 ms: 80 bytes a packet.
voice='0.4*(sin(ld(0))+0.7*sin(2*ld(0))+0.5*sin(3*ld(0))+0.4*sin(5*ld(0))*ld(2)+0.3*sin(8*ld(0))*(1-ld(2))+0.2*sin(14*ld(0))*ld(2))'
level='if(lt(t,2.5),1,if(lt(t,5),0.316,if(lt(t,7.5),0.631,0.126)))'
speech="st(0,2*PI*(120*t-4*cos(2*PI*0.6*t)+0.5*sin(2*PI*2.2*t)));st(1,mod(t,2.5));st(2,0.5-0.5*cos(2*PI*4*t));\
($level)*between(ld(1),0.1,2.1)*(pow(ld(2),0.8)*$voice+0.04*(1-ld(2))*(2*random(3)-1))+0.001*(2*random(4)-1)"
ff -f lavfi -i "aevalsrc='$speech':sample_rate=48000:duration=10" -ac 1 -c:a pcm_s16le "$tmp/speech.wav"
ff -i "$tmp/speech.wav" -c:a libopus -application audio -b:a 32k -vbr off -frame_duration 20 \
    -frames:a 500 -map_metadata -1 -fflags +bitexact -flags:a +bitexact -f ogg "$out/opus-32k.ogg"

# Level of each 20 ms in -dBov (RFC 6464: 0 loudest, 127 silence), one number a line: dB below a full-scale square wave.
ff -i "$tmp/speech.wav" -af "asetnsamples=960,astats=metadata=1:reset=1,ametadata=print:key=lavfi.astats.Overall.RMS_level:file=$tmp/levels" -f null -
awk -F= '/RMS_level=/ { v = ($2 == "-inf") ? 127 : int(0.5 - $2); print (v > 127) ? 127 : v }' "$tmp/levels" > "$out/opus-32k.levels"

ls -l "$out"
