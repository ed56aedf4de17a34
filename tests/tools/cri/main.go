// Drives a container runtime over CRI as a kubelet does, for tests: one request as
// JSON on standard input, one answer on standard output.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type request struct {
	Op        string // run, stop, remove, start, exec, status
	Pod       string // name in its namespace, of "run"
	Uid       string
	Sandbox   string // id
	Container string // id
	Image     string
	LogFolder string
	Cgroup    string
	Command   []string
}

type answer struct {
	Error     string `json:"error,omitempty"`
	Sandbox   string `json:"sandbox,omitempty"`
	Container string `json:"container,omitempty"`
	// What the runtime tells the kubelet of the pod's network.
	Addresses []string `json:"addresses,omitempty"`
	Netns     string   `json:"netns,omitempty"`
	Output    string   `json:"output,omitempty"`
	ExitCode  int32    `json:"exitCode,omitempty"`
	Ready     bool     `json:"ready,omitempty"`
	Reason    string   `json:"reason,omitempty"`
	// What RunPodSandbox took, of "run".
	Seconds float64 `json:"seconds,omitempty"`
}

func sandboxConfig(r request) *runtime.PodSandboxConfig {
	return &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: r.Pod, Uid: r.Uid, Namespace: "default"},
		Hostname: r.Pod,
		// Under which log paths of containers are looked up.
		LogDirectory: r.LogFolder,
		Linux:        &runtime.LinuxPodSandboxConfig{CgroupParent: r.Cgroup},
	}
}

func do(ctx context.Context, c runtime.RuntimeServiceClient, r request) (a answer, err error) {
	switch r.Op {
	case "run":
		// A kubelet has its connection already.
		if _, err := c.Version(ctx, &runtime.VersionRequest{}); err != nil {
			return a, err
		}
		begin := time.Now()
		out, err := c.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: sandboxConfig(r)})
		if err != nil {
			return a, err
		}
		a.Seconds = time.Since(begin).Seconds()
		a.Sandbox = out.PodSandboxId
		status, err := c.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{
			PodSandboxId: a.Sandbox, Verbose: true})
		if err != nil {
			return a, err
		}
		a.Addresses = []string{status.Status.Network.Ip}
		for _, more := range status.Status.Network.AdditionalIps {
			a.Addresses = append(a.Addresses, more.Ip)
		}
		var info struct {
			RuntimeSpec struct {
				Linux struct {
					Namespaces []struct{ Type, Path string }
				}
			}
		}
		if err := json.Unmarshal([]byte(status.Info["info"]), &info); err != nil {
			return a, err
		}
		for _, ns := range info.RuntimeSpec.Linux.Namespaces {
			if ns.Type == "network" {
				a.Netns = ns.Path
			}
		}
		return a, nil
	case "start":
		out, err := c.CreateContainer(ctx, &runtime.CreateContainerRequest{
			PodSandboxId: r.Sandbox,
			Config: &runtime.ContainerConfig{
				Metadata: &runtime.ContainerMetadata{Name: "main"},
				Image:    &runtime.ImageSpec{Image: r.Image},
				Command:  r.Command,
				LogPath:  r.Pod + ".log",
				Linux:    &runtime.LinuxContainerConfig{},
			},
			SandboxConfig: sandboxConfig(r),
		})
		if err != nil {
			return a, err
		}
		a.Container = out.ContainerId
		_, err = c.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: a.Container})
		return a, err
	case "exec":
		out, err := c.ExecSync(ctx, &runtime.ExecSyncRequest{
			ContainerId: r.Container, Cmd: r.Command, Timeout: 20})
		if err != nil {
			return a, err
		}
		a.Output, a.ExitCode = string(out.Stdout)+string(out.Stderr), out.ExitCode
		return a, nil
	case "stop":
		_, err = c.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: r.Sandbox})
		return a, err
	case "remove":
		_, err = c.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: r.Sandbox})
		return a, err
	case "status":
		out, err := c.Status(ctx, &runtime.StatusRequest{})
		if err != nil {
			return a, err
		}
		for _, condition := range out.Status.Conditions {
			if condition.Type == runtime.NetworkReady {
				a.Ready, a.Reason = condition.Status, condition.Message
			}
		}
		return a, nil
	}
	return a, fmt.Errorf("unknown op %q", r.Op)
}

func main() {
	connection, err := grpc.NewClient("unix://"+os.Args[1],
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	client := runtime.NewRuntimeServiceClient(connection)
	var r request
	if err := json.NewDecoder(os.Stdin).Decode(&r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	result, err := do(ctx, client, r)
	if err != nil {
		result.Error = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		os.Exit(1)
	}
}
