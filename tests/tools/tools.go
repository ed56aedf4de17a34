//go:build tools

// Package tools pins the Go programs that tests and benchmarks drive; lab's
// go_program() builds them into the cache.
package tools

import (
	_ "github.com/containernetworking/cni/cnitool"
	_ "github.com/containernetworking/plugins/plugins/ipam/host-local"
	_ "github.com/containernetworking/plugins/plugins/main/loopback"
	_ "github.com/containernetworking/plugins/plugins/main/ptp"
	_ "github.com/containernetworking/plugins/plugins/meta/portmap"
	_ "golang.zx2c4.com/wireguard"
)
