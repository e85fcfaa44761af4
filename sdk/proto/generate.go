// Package proto holds the control protocol between a core and its plugins
// (mooring.proto) and the code generated from it. It owns the wire format of
// control only: blocks cross the rings of package ring.
package proto

//go:generate sh -c "GOBIN=$PWD/../../bin/tools go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12 && GOBIN=$PWD/../../bin/tools go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.1"
//go:generate sh -c "PATH=$PWD/../../bin/tools:$PATH protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative mooring.proto"
