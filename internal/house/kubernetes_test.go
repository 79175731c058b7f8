package house

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"sigs.k8s.io/yaml"

	"github.com/posthornhq/posthorn/pkg/config"
)

// An object is one document of the manifests, as far as the tests look at it.
type object struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Data map[string]string `json:"data"`
	Spec struct {
		Replicas             int            `json:"replicas"`
		ServiceName          string         `json:"serviceName"`
		Selector             map[string]any `json:"selector"`
		Ports                []kubePort     `json:"ports"`
		VolumeClaimTemplates []struct {
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
		} `json:"volumeClaimTemplates"`
		Template struct {
			Metadata struct {
				Labels map[string]string `json:"labels"`
			} `json:"metadata"`
			Spec struct {
				TerminationGracePeriodSeconds int             `json:"terminationGracePeriodSeconds"`
				Containers                    []kubeContainer `json:"containers"`
				Volumes                       []struct {
					Name      string `json:"name"`
					ConfigMap *struct {
						Name string `json:"name"`
					} `json:"configMap"`
				} `json:"volumes"`
			} `json:"spec"`
		} `json:"template"`
	} `json:"spec"`
}

type kubePort struct {
	Name          string `json:"name"`
	Port          int    `json:"port"`
	TargetPort    string `json:"targetPort"`
	ContainerPort int    `json:"containerPort"`
}

type kubeContainer struct {
	Name    string     `json:"name"`
	Image   string     `json:"image"`
	Args    []string   `json:"args"`
	Ports   []kubePort `json:"ports"`
	EnvFrom []struct {
		ConfigMapRef *struct {
			Name string `json:"name"`
		} `json:"configMapRef"`
		SecretRef *struct {
			Name string `json:"name"`
		} `json:"secretRef"`
	} `json:"envFrom"`
	StartupProbe, LivenessProbe, ReadinessProbe *struct {
		HTTPGet *struct {
			Path string `json:"path"`
			Port string `json:"port"`
		} `json:"httpGet"`
	}
	VolumeMounts []struct {
		Name string `json:"name"`
	} `json:"volumeMounts"`
}

func (c kubeContainer) port(name string) int {
	for _, p := range c.Ports {
		if p.Name == name {
			return p.ContainerPort
		}
	}
	return 0
}

// A cluster is all manifests, by kind and name.
type cluster map[string]object

func kubernetes(t *testing.T) cluster {
	t.Helper()
	var k struct {
		Resources []string `json:"resources"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "deploy/kubernetes/kustomization.yaml")), &k); err != nil {
		t.Fatal(err)
	}
	there, err := filepath.Glob(filepath.Join(root(t), "deploy", "kubernetes", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(k.Resources) != len(there)-1 {
		t.Errorf("the kustomization has %d files, there are %d beside it", len(k.Resources), len(there)-1)
	}
	all := cluster{}
	for _, file := range k.Resources {
		for doc := range strings.SplitSeq(read(t, "deploy/kubernetes/"+file), "\n---\n") {
			var o object
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			key := o.Kind + "/" + o.Metadata.Name
			if _, twice := all[key]; twice || o.Kind == "" || o.Metadata.Name == "" {
				t.Errorf("%s has a document %q that is nameless or there twice", file, key)
			}
			all[key] = o
		}
	}
	return all
}

// loaded returns what the binary makes of a container's arguments and environment.
func (all cluster) loaded(t *testing.T, c kubeContainer) *config.Config {
	t.Helper()
	if len(c.Args) == 0 || c.Args[0] != "serve" {
		t.Fatalf("%s runs %q, want serve", c.Name, c.Args)
	}
	flags := config.Flags()
	if err := flags.Parse(c.Args[1:]); err != nil {
		t.Fatal(err)
	}
	environ := []string{"POSTHORN_DATA=/data"} // from the Dockerfile
	secret := false
	for _, from := range c.EnvFrom {
		if from.SecretRef != nil {
			secret = true
			// As the comment in config.yaml has it.
			environ = append(environ, "POSTHORN_ADMIN_KEY="+strings.Repeat("ab", 32), "POSTHORN_SEAL_KEY="+strings.Repeat("ab", 32))
		}
		if ref := from.ConfigMapRef; ref != nil {
			if len(all["ConfigMap/"+ref.Name].Data) == 0 {
				t.Errorf("there is no ConfigMap %s", ref.Name)
			}
			for name, value := range all["ConfigMap/"+ref.Name].Data {
				environ = append(environ, name+"="+value)
			}
		}
	}
	if !secret {
		t.Errorf("%q has no secret, and so no keys", c.Args)
	}
	cfg, err := config.Load(flags, environ, "")
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// serves reports whether a Service of that name leads to a port that its pods open.
func (all cluster) serves(host, port string) bool {
	svc, ok := all["Service/"+host]
	if !ok {
		return false
	}
	for _, kind := range []string{"Deployment/", "StatefulSet/"} {
		w, ok := all[kind+host]
		if !ok {
			continue
		}
		for label, value := range svc.Spec.Selector {
			if w.Spec.Template.Metadata.Labels[label] != value {
				return false
			}
		}
		for _, p := range svc.Spec.Ports {
			if strconv.Itoa(p.Port) == port {
				return w.Spec.Template.Spec.Containers[0].port(p.TargetPort) == p.Port
			}
		}
	}
	return false
}

func TestKubernetesCommandsAreValid(t *testing.T) {
	t.Parallel()
	all := kubernetes(t)
	var roles []string
	for key, o := range all {
		if o.Kind != "Deployment" {
			continue
		}
		pod := o.Spec.Template.Spec
		c := pod.Containers[0]
		cfg := all.loaded(t, c)
		for _, r := range cfg.Roles {
			roles = append(roles, string(r))
		}
		if cfg.Embedded() || len(cfg.Roles) != 1 || string(cfg.Roles[0]) != o.Metadata.Name || o.Spec.Replicas < 2 {
			t.Errorf("%s runs %v on %q in %d replicas; want its role, on the NATS servers, more than once", key, cfg.Roles, cfg.NATSURL.Reveal(), o.Spec.Replicas)
		}
		if grace := time.Duration(pod.TerminationGracePeriodSeconds) * time.Second; grace <= cfg.ShutdownTimeout {
			t.Errorf("%s is killed after %v, and may take %v to end", key, grace, cfg.ShutdownTimeout)
		}
		for role, addrs := range byRole(cfg) {
			for _, addr := range addrs {
				host, port, err := net.SplitHostPort(addr)
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case cfg.Roles.Has(role) && (host != "0.0.0.0" || !all.serves(o.Metadata.Name, port)):
					t.Errorf("%s listens on %s, where no Service leads", key, addr)
				case !cfg.Roles.Has(role) && host != "127.0.0.1" && !all.serves(host, port):
					t.Errorf("%s calls %s, where no Service leads", key, addr)
				}
			}
		}
		for part := range strings.SplitSeq(cfg.NATSURL.Reveal()+","+cfg.RedisURL.Reveal(), ",") {
			u, err := url.Parse(part)
			if err != nil {
				t.Fatal(err)
			}
			host := u.Hostname()
			if pod, sub, ok := strings.Cut(host, "."); ok && strings.HasPrefix(pod, sub+"-") {
				host = sub // a pod of a StatefulSet, by its headless Service
			}
			if !all.serves(host, u.Port()) {
				t.Errorf("%s connects to %s, where no Service leads", key, part)
			}
		}
		for path, probe := range map[string]bool{
			"/readyz":  c.StartupProbe != nil && c.StartupProbe.HTTPGet.Path == "/readyz" && c.ReadinessProbe != nil && c.ReadinessProbe.HTTPGet.Path == "/readyz" && c.ReadinessProbe.HTTPGet.Port == "metrics",
			"/healthz": c.LivenessProbe != nil && c.LivenessProbe.HTTPGet.Path == "/healthz" && c.LivenessProbe.HTTPGet.Port == "metrics",
		} {
			if !probe {
				t.Errorf("%s is not probed at %s", key, path)
			}
		}
		if cfg.Metrics != "0.0.0.0:"+strconv.Itoa(c.port("metrics")) {
			t.Errorf("%s has its probes on %s, its port metrics is %d", key, cfg.Metrics, c.port("metrics"))
		}
		if _, ok := all["PodDisruptionBudget/"+o.Metadata.Name]; !ok {
			t.Errorf("%s has no PodDisruptionBudget", key)
		}
	}
	var want []string
	for _, r := range config.AllRoles() {
		want = append(want, string(r))
	}
	slices.Sort(roles)
	slices.Sort(want)
	if !slices.Equal(roles, want) {
		t.Errorf("the Deployments run roles %v, want %v", roles, want)
	}
}

func TestKubernetesPartsExist(t *testing.T) {
	t.Parallel()
	all := kubernetes(t)
	for key, o := range all {
		if o.Kind == "Secret" {
			t.Errorf("%s is in the repository", key)
		}
		pod := o.Spec.Template.Spec
		volumes := map[string]bool{}
		for _, v := range pod.Volumes {
			volumes[v.Name] = true
			if v.ConfigMap != nil && len(all["ConfigMap/"+v.ConfigMap.Name].Data) == 0 {
				t.Errorf("%s mounts ConfigMap %s, which is not there", key, v.ConfigMap.Name)
			}
		}
		for _, v := range o.Spec.VolumeClaimTemplates {
			volumes[v.Metadata.Name] = true
		}
		for _, c := range pod.Containers {
			for _, m := range c.VolumeMounts {
				if !volumes[m.Name] {
					t.Errorf("%s mounts %s, which is no volume of it", key, m.Name)
				}
			}
		}
		if o.Kind == "StatefulSet" {
			if _, ok := all["Service/"+o.Spec.ServiceName]; !ok {
				t.Errorf("%s is of Service %s, which is not there", key, o.Spec.ServiceName)
			}
		}
	}

	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(all["ConfigMap/nats"].Data["nats.conf"]), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := server.ProcessConfigFile(filepath.Join(root(t), "jetstream", "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if got.StoreDir != want.StoreDir || got.MaxPayload != want.MaxPayload || got.SyncInterval != want.SyncInterval || got.JetStreamLimits != want.JetStreamLimits {
		t.Errorf("the servers are configured otherwise than jetstream/nats.conf: %+v", got)
	}
	if n := all["StatefulSet/nats"].Spec.Replicas; len(got.Routes) != n || n != 3 {
		t.Errorf("%d routes lead to %d servers, want 3 of each", len(got.Routes), n)
	}
	for i, r := range got.Routes {
		if want := "nats-" + strconv.Itoa(i) + ".nats"; r.Hostname() != want {
			t.Errorf("route %d leads to %s, want %s", i, r.Hostname(), want)
		}
	}
}
