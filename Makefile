# What everybody types: make run, make test. `make help` lists the rest.
GO      ?= go
PREFIX  ?= /usr/local
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
PLUGINS := $(filter-out transport-rdma,$(notdir $(wildcard plugins/*)))
# The one plugin with cgo is built, and its binding checked and tested, where rdma-core's headers are.
RDMA    := $(shell printf '\#include <rdma/rdma_cma.h>\n' | $(CC) -E -x c - >/dev/null 2>&1 && echo plugins/transport-rdma)
NO_RDMA := left out: %s transport-rdma, for want of a C compiler or rdma-core headers (Debian: apt-get install gcc libc6-dev libibverbs-dev librdmacm-dev)\n
TOOL     = $(GO) tool -modfile=tools/dev/go.mod

.PHONY: all build run demo-cluster test check check-quick lint vuln unit race model fuzz e2e e2e-rdma e2e-cluster chaos bench install clean generate help deps

all: build

build: ## build bin/mooring and bin/plugins/*
	@./tools/check-go.sh "$(GO)"
	@mkdir -p bin/plugins
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/mooring ./cmd/mooring
	@for p in $(PLUGINS); do echo "build bin/plugins/$$p"; CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/plugins/$$p ./plugins/$$p || exit 1; done
ifdef RDMA
	@echo build bin/plugins/transport-rdma
	@CGO_ENABLED=1 $(GO) build -trimpath -tags rdma -ldflags '$(LDFLAGS)' -o bin/plugins/transport-rdma ./$(RDMA)
else
	@rm -f bin/plugins/transport-rdma; printf '$(NO_RDMA)' 'building'
endif

run: build ## build all and start a node from config.hcl
	./bin/mooring agent -config config.hcl -trust-plugins

demo-cluster: build ## three nodes on this machine as one cluster, until Ctrl-C; prints what to try
	./tools/demo-cluster.sh

deps: ## install what the tests need (Debian)
	./e2e/install-deps.sh

test: deps build check unit race model e2e ## everything that CI runs

check-quick: build check unit ## the part of test that needs neither root nor QEMU

check: lint ## formatting, vet, linters, house rules
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "not gofmt-clean:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags e2e,cluster,rdmahost ./e2e/...
ifdef RDMA
	$(GO) vet -tags rdma ./$(RDMA)/...
	$(GO) vet -tags rdma,guest ./$(RDMA)/...
	$(TOOL) staticcheck -checks inherit,-ST1005 -tags rdma ./$(RDMA)/...
else
	@printf '$(NO_RDMA)' 'checks of the binding in'
endif

# Only our own enumerations are held to account in a switch; a tag to abort is no operation of a volume, and of what peers say some cases are enough.
lint: ## staticcheck, lost errors, switches that miss a case, log calls that miss a value
	$(TOOL) staticcheck -checks inherit,-ST1005 ./...
	$(TOOL) staticcheck -checks inherit,-ST1005 -tags e2e ./e2e
	$(TOOL) errcheck -ignoretests -exclude tools/dev/errcheck.txt ./...
	$(TOOL) exhaustive -d -typeignore 'Errno$$|codes\.Code$$|^reflect\.Kind$$|(nvme|scsi)\.Opcode$$|iscsi\.(LoginStatus|AsyncEvent)$$' -constignore 'sdk/ring\.OpAbort$$' ./...
	$(TOOL) loggercheck -rulefile tools/dev/loggercheck.txt -requirestringkey ./...

vuln: ## known vulnerabilities in what we call (asks the network)
	$(TOOL) govulncheck ./...

# Compiled for all packages at once, linked and run for one at a time: many tests run processes and
# threads of their own, and their neighbours should not be what they time.
unit: ## all unit, contract, crash and in-process tests
	$(GO) list -test -export ./... >/dev/null
	$(GO) test -p 1 -shuffle=on -timeout 10m ./...
ifdef RDMA
	$(GO) test -tags rdma -shuffle=on -timeout 5m ./$(RDMA)/...
else
	@printf '$(NO_RDMA)' 'tests of the binding in'
endif

race: ## the concurrent packages under the race detector
	$(GO) list -race -test -export ./core/... ./sdk/... ./plugins/... >/dev/null
	$(GO) test -race -short -p 1 -timeout 10m ./core/... ./sdk/... ./plugins/...
ifdef RDMA
	$(GO) test -race -short -tags rdma -timeout 5m ./$(RDMA)/...
else
	@printf '$(NO_RDMA)' 'tests of the binding in'
endif

model: deps ## the safety rules in a model: they hold, and none can be left out
	./docs/model/check.sh

fuzz: ## every fuzz target, 20 s each
	./tools/fuzz.sh 20s

# The other packages below e2e need neither QEMU nor a file system of their own: they are part of unit.
e2e: build ## real initiators in QEMU, power cuts on a file system that forgets
	$(GO) test -tags e2e -p 1 -count=1 -timeout 30m -v ./e2e ./e2e/forgetfs ./e2e/powerloss
	$(GO) test -tags cluster -count=1 -timeout 10m -v -run 'TestNodeDeath$$' ./e2e/cluster

# All cases take some minutes; that part of e2e which was seen to pass each time on a busy machine is in e2e.
e2e-rdma: build ## our own NVMe/RDMA host against the target over soft-RoCE in QEMU: several descriptors, hostile ones
	$(GO) test -tags e2e,rdmahost -count=1 -timeout 10m -v -run 'TestRDMAHost$$' ./e2e

e2e-cluster: ## clusters of real agents on loopback: forming, growing, deaths
	$(GO) test -tags cluster -count=1 -timeout 20m -v ./e2e/cluster

TIME ?= 2m
chaos: ## three nodes, killed and stopped at random under hosts for TIME=2m, by SEED; the last line says whether it held
	$(GO) run ./e2e/chaos -time $(TIME) $(if $(SEED),-seed $(SEED))

bench: build ## the table of docs/performance.md
	./tools/bench.sh

generate: ## regenerate sdk/proto (needs protoc)
	$(GO) generate ./sdk/proto

install: build ## install below PREFIX, with the systemd unit and completions
	./tools/install.sh "$(PREFIX)" "$(DESTDIR)"

clean: ## remove what was built
	rm -rf bin

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
