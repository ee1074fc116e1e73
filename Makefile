# Every target is one `cargo xtask` command, and `make` alone lists them. No logic here.

.PHONY: help demo demo-shell test bench image

help: ## list the targets
	@sed -n 's/^\([a-z-]*\): ## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## a small cluster on a guest kernel, shown step by step
	cargo xtask demo

demo-shell: ## the same, then a shell in it
	cargo xtask demo-shell

test: ## install what the guest needs, then every test: house rules, host, guest kernel
	cargo xtask test

bench: ## benchmarks on a guest kernel; the table is kept in target/bench/latest.md
	cargo xtask bench

image: ## a static binary, and container images with it where a builder works
	cargo xtask image
