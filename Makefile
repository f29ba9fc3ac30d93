# The plain go commands behind these targets work by themselves:
#   make dev    go run ./cmd/keytide dev
#   make test   go test ./...
.PHONY: dev test fuzz bench build build-fips image

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

# Container images of both programs, from scratch: nothing is pulled.
image:
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o bin/image/ ./cmd/keytide ./cmd/keytide-agent
	docker build -t keytide --build-arg PROGRAM=keytide -f deploy/container/Dockerfile bin/image
	docker build -t keytide-agent --build-arg PROGRAM=keytide-agent -f deploy/container/Dockerfile bin/image
