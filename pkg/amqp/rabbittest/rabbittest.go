package rabbittest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// startTimeout and stopTimeout are generous: they decide only how late a
	// broken test fails.
	startTimeout = 2 * time.Minute
	stopTimeout  = time.Minute

	// script is what Debian's rabbitmq-server runs in the end. The one in PATH
	// becomes user rabbitmq, and writes into the system's directories.
	script = "/usr/lib/rabbitmq/bin/rabbitmq-server"

	// User and Password are of the user that every new node has.
	User     = "guest"
	Password = "guest"
)

// A Server is a node of RabbitMQ, as one test sees it.
type Server struct {
	*node
	t testing.TB
}

// A node is the process.
type node struct {
	dir   string
	ports [3]int // AMQP, Erlang distribution, port mapper
	epmd  *exec.Cmd
	cmd   *exec.Cmd
	out   *bytes.Buffer
}

// Start starts a node for one test and waits until it takes connections.
func Start(t testing.TB) *Server {
	t.Helper()
	n, err := newNode()
	if err == nil {
		t.Cleanup(n.remove)
		err = n.start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return &Server{node: n, t: t}
}

// shared is the node of all tests of a package that stop none.
var shared struct {
	sync.Once
	*node
	err error
}

// Shared returns the node that the tests of a package share, which the first of
// them starts. They give their queues and exchanges names of their own. A package
// that uses it calls [Main].
func Shared(t testing.TB) *Server {
	t.Helper()
	shared.Do(func() {
		if shared.node, shared.err = newNode(); shared.err == nil {
			shared.err = shared.start()
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return &Server{node: shared.node, t: t}
}

// Main runs the tests of a package, ends the node that they share, and returns
// the code to exit with.
func Main(m *testing.M) int {
	code := m.Run()
	if shared.node != nil {
		shared.remove()
	}
	return code
}

// newNode prepares a node.
func newNode() (*node, error) {
	if _, err := os.Stat(script); err != nil {
		return nil, fmt.Errorf("this test needs a real RabbitMQ: apt-get install rabbitmq-server (%w)", err)
	}
	dir, err := os.MkdirTemp("", "rabbitmq")
	if err != nil {
		return nil, err
	}
	n := &node{dir: dir}
	for i := range n.ports {
		if n.ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	for name, content := range map[string]string{
		"plugins": "[].\n",
		// A full disk is not what these tests are about.
		"rabbit.conf": "listeners.tcp.1 = " + n.Addr() + "\ndisk_free_limit.absolute = 1MB\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	// Without one of our own the node would start one that stays when it is gone.
	n.epmd = exec.Command("epmd", "-address", "127.0.0.1", "-port", fmt.Sprint(n.ports[2]))
	if err := n.epmd.Start(); err != nil {
		return nil, fmt.Errorf("start epmd: %w", err)
	}
	return n, nil
}

// remove ends the node and forgets what it had.
func (n *node) remove() {
	n.kill()
	end(n.epmd)
	_ = os.RemoveAll(n.dir) // a leftover in the temporary directory
}

// Addr returns the host and port that the node listens on.
func (n *node) Addr() string { return fmt.Sprintf("127.0.0.1:%d", n.ports[0]) }

// URL returns the node's URL, without user and password.
func (n *node) URL() string { return "amqp://" + n.Addr() }

// Stop ends the node as an operator does, and waits for that.
func (s *Server) Stop() {
	s.t.Helper()
	if err := s.stop(); err != nil {
		s.t.Fatal(err)
	}
}

// Kill ends the node at once, as kill -9 does, and waits for that.
func (s *Server) Kill() { s.kill() }

// Restart starts the node again, with what it had; if it runs, after
// [Server.Stop].
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

func (n *node) stop() error {
	if n.cmd == nil {
		return nil
	}
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop rabbitmq-server: %w", err)
	}
	watchdog := time.AfterFunc(stopTimeout, func() { _ = n.cmd.Process.Kill() })
	defer watchdog.Stop()
	_ = n.cmd.Wait() // whatever it says, it has ended
	n.cmd = nil
	return nil
}

func (n *node) kill() {
	end(n.cmd)
	n.cmd = nil
}

func end(cmd *exec.Cmd) {
	if cmd == nil || cmd.Process == nil {
		return
	}
	// An error means that it has ended by itself; Wait's says how, and it was killed.
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func (n *node) start() error {
	n.out = &bytes.Buffer{}
	n.cmd = exec.Command(script)
	n.cmd.Env = n.env()
	n.cmd.Dir, n.cmd.Stdout, n.cmd.Stderr = n.dir, n.out, n.out
	if err := n.cmd.Start(); err != nil {
		n.cmd = nil
		return fmt.Errorf("start rabbitmq-server: %w", err)
	}
	return n.await()
}

// env is what keeps the node to itself.
func (n *node) env() []string {
	return append(os.Environ(),
		"HOME="+n.dir, // of the cookie
		fmt.Sprintf("RABBITMQ_NODENAME=posthorn%d@localhost", n.ports[0]),
		fmt.Sprintf("RABBITMQ_DIST_PORT=%d", n.ports[1]),
		fmt.Sprintf("ERL_EPMD_PORT=%d", n.ports[2]),
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_MNESIA_BASE="+filepath.Join(n.dir, "mnesia"),
		"RABBITMQ_LOG_BASE="+filepath.Join(n.dir, "log"),
		"RABBITMQ_CONFIG_FILE="+filepath.Join(n.dir, "rabbit.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(n.dir, "plugins"),
		"RABBITMQ_CONF_ENV_FILE="+os.DevNull,
		"RABBITMQ_PID_FILE="+filepath.Join(n.dir, "pid"),
		// Schedulers that spin when idle take the machine from other tests.
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
		// The script then becomes the node, and does not stand between it and our signals.
		"RABBITMQ_ALLOW_INPUT=1", "RABBITMQ_SERVER_START_ARGS=-noinput",
	)
}

// Control runs rabbitmqctl on the node.
func (s *Server) Control(args ...string) {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(filepath.Dir(script), "rabbitmqctl"), args...)
	cmd.Env, cmd.Dir = s.env(), s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("rabbitmqctl %v: %v\n%s", args, err, out)
	}
}

func (n *node) await() error {
	deadline := time.After(startTimeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := n.dial()
		if err == nil {
			return conn.Close()
		}
		select {
		case <-tick.C:
		case <-deadline:
			n.kill() // so that its output is whole
			return fmt.Errorf("rabbitmq-server does not answer after %s: %w\n%s", startTimeout, err, n.out.Bytes())
		}
	}
}

func (n *node) dial() (*amqp.Connection, error) {
	return amqp.DialConfig(n.URL(), amqp.Config{SASL: []amqp.Authentication{&amqp.PlainAuth{Username: User, Password: Password}}})
}

// Channel returns a channel of a connection of its own, which is closed when the
// test ends.
func (s *Server) Channel() *amqp.Channel {
	s.t.Helper()
	ch, end := s.channel()
	s.t.Cleanup(end)
	return ch
}

// channel returns a channel and what ends its connection.
func (s *Server) channel() (*amqp.Channel, func()) {
	s.t.Helper()
	conn, err := s.dial()
	if err != nil {
		s.t.Fatal(err)
	}
	ch, err := conn.Channel()
	if err != nil {
		s.t.Fatal(err)
	}
	return ch, func() { _ = conn.Close() } // the node may be gone
}

// Queue makes a durable queue of that name, bound to exchange by the keys, if
// there are any. The exchange is made as a durable one of kind topic. What another
// run of the test left in the queue is dropped.
func (s *Server) Queue(name, exchange string, keys ...string) {
	s.t.Helper()
	ch, end := s.channel()
	defer end()
	if _, err := ch.QueueDeclare(name, true, false, false, false, nil); err != nil {
		s.t.Fatal(err)
	}
	if _, err := ch.QueuePurge(name, false); err != nil {
		s.t.Fatal(err)
	}
	if exchange != "" {
		if err := ch.ExchangeDeclare(exchange, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, key := range keys {
		if err := ch.QueueBind(name, key, exchange, false, nil); err != nil {
			s.t.Fatal(err)
		}
	}
}

// Depth returns how many messages of a queue wait for a consumer.
func (s *Server) Depth(queue string) int {
	s.t.Helper()
	return s.inspect(queue).Messages
}

// Consumers returns how many consumers a queue has.
func (s *Server) Consumers(queue string) int {
	s.t.Helper()
	return s.inspect(queue).Consumers
}

func (s *Server) inspect(queue string) amqp.Queue {
	s.t.Helper()
	ch, end := s.channel()
	defer end()
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return q
}

// Drain takes all that is in a queue.
func (s *Server) Drain(queue string) []amqp.Delivery {
	s.t.Helper()
	ch, end := s.channel()
	defer end()
	var all []amqp.Delivery
	for {
		d, ok, err := ch.Get(queue, true)
		if err != nil {
			s.t.Fatal(err)
		}
		if !ok {
			return all
		}
		all = append(all, d)
	}
}

// nextPort counts through ports below the range from which the kernel gives out
// its own: a node that is started again must find its port free.
var nextPort atomic.Int32

func freePort() (int, error) {
	var err error
	for range 1000 {
		port := 10_000 + (os.Getpid()*32+int(nextPort.Add(1)))%9_000
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no port is free: %w", err)
}
