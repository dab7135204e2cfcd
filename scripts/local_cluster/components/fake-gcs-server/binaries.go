//go:build binaries

// Package binaries imports the program that this module builds, so that `go mod tidy` keeps what it needs.
package binaries

import _ "github.com/fsouza/fake-gcs-server"
