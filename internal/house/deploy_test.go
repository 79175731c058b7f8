package house

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"sigs.k8s.io/yaml"

	"github.com/posthornhq/posthorn/pkg/config"
)

// A composed is one service of compose.yaml.
type composed struct {
	Image       string         `json:"image"`
	Profiles    []string       `json:"profiles"`
	Command     []string       `json:"command"`
	Environment map[string]any `json:"environment"`
	Ports       []string       `json:"ports"`
	Volumes     []string       `json:"volumes"`
	DependsOn   []string       `json:"depends_on"`
}

// ours reports whether the service runs the binary.
func (c composed) ours() bool { return c.Image == "posthorn" }

type composition struct {
	Services map[string]composed `json:"services"`
	Volumes  map[string]any      `json:"volumes"`
}

func compose(t *testing.T) composition {
	t.Helper()
	var c composition
	if err := yaml.Unmarshal([]byte(read(t, "compose.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	if len(c.Services) == 0 {
		t.Fatal("compose.yaml has no services")
	}
	return c
}

// interpolated matches ${NAME:-default}, the one form that compose.yaml uses.
var interpolated = regexp.MustCompile(`\$\{[A-Z_]+:-([^}]*)\}`)

// loaded returns what the binary makes of a service's command and environment.
func (c composed) loaded(t *testing.T) *config.Config {
	t.Helper()
	if len(c.Command) == 0 || c.Command[0] != "serve" {
		t.Fatalf("command is %q, want serve", c.Command)
	}
	flags := config.Flags()
	if err := flags.Parse(c.Command[1:]); err != nil {
		t.Fatal(err)
	}
	environ := []string{"POSTHORN_DATA=/data"} // from the Dockerfile
	for name, value := range c.Environment {
		environ = append(environ, name+"="+interpolated.ReplaceAllString(fmt.Sprint(value), "$1"))
	}
	cfg, err := config.Load(flags, environ, "")
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestComposedCommandsAreValid(t *testing.T) {
	t.Parallel()
	for name, svc := range compose(t).Services {
		if !svc.ours() {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svc.loaded(t)
		})
	}
}

func TestProfilesHaveEveryRoleOnce(t *testing.T) {
	t.Parallel()
	services := compose(t).Services
	for _, profile := range []string{"single", "scaled"} {
		var roles []string
		for _, svc := range services {
			if svc.ours() && slices.Contains(svc.Profiles, profile) {
				for _, r := range svc.loaded(t).Roles {
					roles = append(roles, string(r))
				}
			}
		}
		var want []string
		for _, r := range config.AllRoles() {
			want = append(want, string(r))
		}
		slices.Sort(roles)
		slices.Sort(want)
		if !slices.Equal(roles, want) {
			t.Errorf("profile %s runs roles %v, want %v", profile, roles, want)
		}
	}
	for name, svc := range services {
		if len(svc.Profiles) != 1 {
			t.Errorf("%s is in profiles %v, want one, or it would start with both", name, svc.Profiles)
		}
	}
}

// byRole returns the addresses of each role, here or elsewhere.
func byRole(cfg *config.Config) map[config.Role][]string {
	return map[config.Role][]string{
		config.Gateway:    {cfg.HTTP, cfg.GRPC},
		config.API:        {cfg.APIHTTP, cfg.APIGRPC},
		config.Broker:     {cfg.Broker},
		config.Registry:   {cfg.Registry},
		config.Dispatcher: {cfg.Dispatcher},
	}
}

// listening returns the addresses that a process listens on.
func listening(cfg *config.Config) map[string]bool {
	addresses := map[string]bool{}
	for role, addrs := range byRole(cfg) {
		if cfg.Roles.Has(role) {
			for _, a := range addrs {
				addresses[a] = true
			}
		}
	}
	addresses[cfg.Metrics] = true
	if cfg.Embedded() {
		addresses[cfg.NATSListen] = true
	}
	return addresses
}

func TestContainersReachEachOther(t *testing.T) {
	t.Parallel()
	services := compose(t).Services
	for name, svc := range services {
		if !svc.ours() {
			continue
		}
		cfg := svc.loaded(t)
		for role, addrs := range byRole(cfg) {
			for _, addr := range addrs {
				host, port, err := net.SplitHostPort(addr)
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case cfg.Roles.Has(role) && host != "0.0.0.0" && len(cfg.Roles) == 1:
					t.Errorf("%s listens on %s, where no other container reaches it", name, addr)
				case !cfg.Roles.Has(role) && host != "127.0.0.1": // not the default: it means to call
					there, ok := services[host]
					if !ok || !there.ours() || !listening(there.loaded(t))["0.0.0.0:"+port] {
						t.Errorf("%s calls %s, where no container listens", name, addr)
					}
				}
			}
		}
		for part := range strings.SplitSeq(cfg.NATSURL.Reveal()+","+cfg.RedisURL.Reveal(), ",") {
			if u, err := url.Parse(part); err != nil || part != "" && services[u.Hostname()].Image == "" {
				t.Errorf("%s connects to %s (%v), which is no container", name, part, err)
			}
		}
		for _, published := range svc.Ports {
			if inside := published[strings.LastIndex(published, ":")+1:]; !listening(cfg)["0.0.0.0:"+inside] {
				t.Errorf("%s publishes %s, where it does not listen", name, published)
			}
		}
	}
}

func TestComposedPartsExist(t *testing.T) {
	t.Parallel()
	c := compose(t)
	for name, svc := range c.Services {
		for _, d := range svc.DependsOn {
			if other, ok := c.Services[d]; !ok || !slices.Equal(other.Profiles, svc.Profiles) {
				t.Errorf("%s depends on %s, which does not start with it", name, d)
			}
		}
		for _, p := range svc.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s publishes %s to the world", name, p)
			}
		}
		for _, v := range svc.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if path, ok := strings.CutPrefix(from, "./"); ok {
				read(t, path)
			} else if _, ok := c.Volumes[from]; !ok {
				t.Errorf("%s mounts volume %s, which is not declared", name, from)
			}
		}
	}
}

func TestNATSConfigurationIsRead(t *testing.T) {
	t.Parallel()
	opts, err := server.ProcessConfigFile(filepath.Join(root(t), "jetstream", "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if !opts.JetStream || opts.StoreDir != "/data" {
		t.Errorf("JetStream is %t in %q, want it in the volume /data", opts.JetStream, opts.StoreDir)
	}
	if got := opts.JetStreamLimits.DefaultMaxConsumers; got < 10_000 {
		t.Errorf("a stream may have %d consumers, want room for lanes, 10,000 at least", got)
	}
	services := compose(t).Services
	nodes := 0
	for _, r := range opts.Routes {
		if svc, ok := services[r.Hostname()]; ok && slices.Contains(svc.Command, "--name="+r.Hostname()) {
			nodes++
		}
	}
	if nodes != 3 || len(opts.Routes) != 3 {
		t.Errorf("%d of routes %v lead to a container of that name, want 3 of 3", nodes, opts.Routes)
	}
}

func TestImageFitsTheModule(t *testing.T) {
	t.Parallel()
	text := read(t, "Dockerfile")
	goVersion := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))
	if goVersion == nil || !strings.Contains(text, "FROM golang:"+goVersion[1]+" ") {
		t.Errorf("Dockerfile does not build with the Go of go.mod, %v", goVersion)
	}
	var environ []string
	for _, m := range regexp.MustCompile(`(?m)^ENV (POSTHORN_\w+=.*)$`).FindAllStringSubmatch(text, -1) {
		environ = append(environ, m[1])
	}
	cfg, err := config.Load(nil, environ, "")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Data != "/data" || !strings.Contains(text, "\nVOLUME /data\n") {
		t.Errorf("data is in %s, want it in the volume /data", cfg.Data)
	}
	exposed := strings.Fields(regexp.MustCompile(`(?m)^EXPOSE (.*)$`).FindString(text))
	for addr := range listening(config.Default()) {
		if _, port, err := net.SplitHostPort(addr); err != nil || !slices.Contains(exposed, port) {
			t.Errorf("port %s of %s is not exposed", port, addr)
		}
	}
}

// What CI checks is what people are told to run, and all of it.
func TestCIRunsWhatTheReadmeSays(t *testing.T) {
	t.Parallel()
	command := regexp.MustCompile(`(?m)^(?:exec )?(go run \S+/cmd/task@\S+ test)$`)
	m := command.FindStringSubmatch(read(t, ".ci/run"))
	if m == nil {
		t.Fatal(".ci/run does not run the tests through the Taskfile")
	}
	for _, path := range []string{"README.md", "Taskfile.yml"} {
		if !strings.Contains(read(t, path), m[1]) {
			t.Errorf("%s does not say %q, which CI runs", path, m[1])
		}
	}
	var file struct {
		Tasks map[string]struct {
			Desc string `json:"desc"`
		} `json:"tasks"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "Taskfile.yml")), &file); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"check", "test", "lint", "generate", "build", "bench", "up"} {
		if file.Tasks[name].Desc == "" {
			t.Errorf("task %s is missing, or does not say what it does", name)
		}
	}
}
