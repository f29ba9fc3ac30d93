# The plain go commands behind these targets work by themselves:
#   make dev    go run ./cmd/keytide dev
#   make test   go test ./...
.PHONY: dev test fuzz bench build build-fips

dev:
	go run ./cmd/keytide dev

# Everything that must pass before a change lands but the fuzzing: installs what
# it needs, then formatting, vet, staticcheck and tests with the race detector.
test:
	.ci/install
	.ci/lint
	.ci/test

# Some thousand inputs to every fuzz target.
fuzz:
	.ci/fuzz

bench:
	go run ./e2e/bench

build:
	go build -o bin/ ./cmd/keytide ./cmd/keytide-agent

# With the cryptographic module that holds a certificate, in FIPS 140-3 mode: see deploy/FIPS.md.
build-fips:
	GOFIPS140=certified go build -o bin/fips/ ./cmd/keytide ./cmd/keytide-agent
