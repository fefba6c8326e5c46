# SPDX-License-Identifier: GPL-2.0-only
#
# Everything that this checkout can do, from a bare Debian 12 or 13: `make demo`, `make test`.

# Debian's own python3 sees BCC; another one on PATH would not.
PYTHON := /usr/bin/python3
BIN := .venv/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# What wgtrace itself needs, and what developing and the lab need on top.
RUN_PACKAGES := python3 python3-bpfcc python3-pyroute2 python3-click python3-rich
DEV_PACKAGES := $(RUN_PACKAGES) python3-venv python3-pip python3-pytest python3-hypothesis python3-jsonschema gcc libc6-dev \
	qemu-system-x86 mmdebstrap squashfs-tools cpio kmod debian-archive-keyring iproute2 wireguard-tools \
	lz4 zstd xz-utils tshark
# Checks the Vagrantfile; the plugin is there so that a provider's settings are checked too.
TEST_PACKAGES := vagrant vagrant-libvirt

PREFIX := /usr/local
LIBDIR := $(DESTDIR)$(PREFIX)/lib/wgtrace
LAUNCHER := $(DESTDIR)$(PREFIX)/sbin/wgtrace

# $(call debian,PACKAGES): installs those that are missing; asks dpkg first, so that it costs nothing.
define debian
	@missing=""; for p in $(1); do \
		dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || missing="$$missing $$p"; \
	done; \
	if [ -n "$$missing" ]; then \
		echo "== installing from Debian:$$missing"; \
		$(SUDO) apt-get update -qq && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing; \
	fi
endef

.PHONY: help setup demo test bench lint unit install uninstall clean

help:
	@echo "make demo       set up, boot a real kernel and watch wgtrace name the causes of real drops"
	@echo "make test       set up and run lint, types, unit tests, BPF, every kernel in the lab"
	@echo "make bench      measure what wgtrace and other tools cost on every kernel of the lab; long"
	@echo "make setup      install what is missing from Debian and make .venv with .venv/bin/wgtrace"
	@echo "make lint       formatting, lint and types only"
	@echo "make unit       the tests that need no root and no machine"
	@echo "make install    as root: wgtrace for this host, in $(PREFIX)"
	@echo "make uninstall  as root: take it away again"
	@echo "make clean      remove what make made here (the lab's images stay in ~/.cache/wgtrace)"

setup: .venv/ready

.venv/ready: pyproject.toml Makefile
	$(call debian,$(DEV_PACKAGES))
	@echo "== making .venv"
	@$(PYTHON) -m venv --system-site-packages .venv
	@$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' \
		| $(BIN)/pip install --quiet --disable-pip-version-check -r /dev/stdin
	@echo "$(CURDIR)" > $$(echo .venv/lib/python3.*/site-packages)/wgtrace.pth
	@printf '%s\n' '#!$(CURDIR)/$(BIN)/python' 'import wgtrace.__main__' \
		> $(BIN)/wgtrace
	@chmod 755 $(BIN)/wgtrace
	@touch $@

demo: setup
	$(BIN)/wgtrace lab demo

lint: setup
	@echo "== ruff"
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ruff check
	@echo "== mypy"
	@$(BIN)/mypy
	@echo "== clang-format"
	@$(BIN)/clang-format --dry-run --Werror $(wildcard bpf/*.c bpf/*.h)

unit: setup
	@echo "== unit tests"
	@$(BIN)/python -m pytest tests/unit

test: lint
	$(call debian,$(TEST_PACKAGES))
	@echo "== tests: unit, BPF, and end to end on every kernel of the lab"
	@$(BIN)/python -m pytest tests/unit tests/bpf tests/vm

bench: setup
	@$(BIN)/python -m tests.bench

install:
	@[ "$$(id -u)" = 0 ] || { echo "make install needs root: sudo make install" >&2; exit 1; }
	$(call debian,$(RUN_PACKAGES))
	rm -rf $(LIBDIR)
	install -d $(LIBDIR) $(dir $(LAUNCHER))
	cp -r wgtrace $(LIBDIR)/wgtrace
	cp -r bpf $(LIBDIR)/wgtrace/bpf
	find $(LIBDIR) -name __pycache__ -prune -exec rm -r {} +
	$(PYTHON) -m compileall -q -s "$(DESTDIR)" $(LIBDIR)
	@printf '%s\n' '#!$(PYTHON)' 'import sys' '' 'sys.path.insert(0, "$(PREFIX)/lib/wgtrace")' \
		'import wgtrace.__main__' > $(LAUNCHER)
	chmod 755 $(LAUNCHER)
# The first start need not wait for the compiler; without WireGuard in the kernel it is still too early.
	@[ -n "$(DESTDIR)" ] || $(PYTHON) -c 'import sys; sys.path.insert(0, "$(PREFIX)/lib/wgtrace"); \
		from wgtrace.loader.build import begun; build = begun(); build and build.bytecode()'

uninstall:
	rm -rf $(LIBDIR) $(LAUNCHER) $(DESTDIR)/var/cache/wgtrace/programs

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build dist
	find . -name __pycache__ -prune -exec rm -r {} +
