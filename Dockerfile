# Ferrovia in an image that holds one static binary and nothing else.
#
#   make image                          builds both targets
#   docker build --target default .     scratch: ferrovia alone
#   docker build --target tools .       the same with ipvsadm, ipset, nft, ip, conntrack for looking around
#
# `gobgp` is a link to it: under that name it is gobgp's command line (docs/user/gobgp.md).
#
# The binary is built outside (`cargo xtask image` puts it into target/image/ferrovia), so that the image needs no
# compiler and the build is the one that was tested.

FROM scratch AS default
COPY target/image/ferrovia /usr/local/bin/ferrovia
COPY target/image/links/ /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/ferrovia"]

FROM debian:bookworm-slim AS tools
RUN apt-get update \
 && apt-get install -y --no-install-recommends ipvsadm ipset nftables iproute2 conntrack iptables kmod \
 && rm -rf /var/lib/apt/lists/*
COPY target/image/ferrovia /usr/local/bin/ferrovia
COPY target/image/links/ /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/ferrovia"]
