#!/bin/sh
# Cuts the media of a Janus server off, its signalling, or the registry from it, and heals it: what ROOMFUL_ACTION says to ROOMFUL_SERVER.
# janus-N has the RTP ports from 20000 + 4000 (N - 1) on, its WebSocket at 8187 + N, its admin API at 7087 + N.
set -eu
n=${ROOMFUL_SERVER#janus-}
first=$((16000 + 4000 * n))
nft add table inet roomful
nft add chain inet roomful "$ROOMFUL_SERVER" '{ type filter hook input priority 0; }'
case $ROOMFUL_ACTION in
  partition_media)
    nft add rule inet roomful "$ROOMFUL_SERVER" udp dport $first-$((first + 3999)) drop
    nft add rule inet roomful "$ROOMFUL_SERVER" udp sport $first-$((first + 3999)) drop ;;
  partition_signaling)
    nft add rule inet roomful "$ROOMFUL_SERVER" tcp dport $((8187 + n)) drop
    nft add rule inet roomful "$ROOMFUL_SERVER" tcp sport $((8187 + n)) drop ;;
  partition_registry) # its keeper asks the admin API, and hears nothing
    nft add rule inet roomful "$ROOMFUL_SERVER" tcp dport $((7087 + n)) drop
    nft add rule inet roomful "$ROOMFUL_SERVER" tcp sport $((7087 + n)) drop ;;
  heal) nft flush chain inet roomful "$ROOMFUL_SERVER" ;;
  *) echo "cannot do $ROOMFUL_ACTION" >&2; exit 1 ;;
esac
echo "$ROOMFUL_ACTION of $ROOMFUL_SERVER"
