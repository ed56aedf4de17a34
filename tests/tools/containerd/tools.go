//go:build tools

// Package tools pins a containerd newer than Debian's: it speaks CNI 1.1.0 and
// calls STATUS.
package tools

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
)
