package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/posthornhq/posthorn/pkg/client"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/wire"
)

// A listenOutput is how `listen` shows deliveries. It is a flag's value.
type listenOutput string

const (
	listenCompact listenOutput = "compact"
	listenQuiet   listenOutput = "quiet"
	listenJSON    listenOutput = "json"
)

func (o *listenOutput) String() string { return string(*o) }
func (o *listenOutput) Type() string   { return "format" }

func (o *listenOutput) Set(s string) error {
	switch v := listenOutput(s); v {
	case listenCompact, listenQuiet, listenJSON:
		*o = v
		return nil
	}
	return fmt.Errorf("%q is none of compact, quiet and json", s)
}

// A listener handles what `listen` gets.
type listener struct {
	name    string
	dest    destination.Destination // nil for nowhere
	timeout time.Duration
	screen  *listenScreen

	mu   sync.Mutex
	last *client.Delivery
}

// handle forwards a delivery, if it is to be, and shows it.
func (l *listener) handle(ctx context.Context, _ client.Event) error {
	d, ok := client.DeliveryOf(ctx)
	if !ok {
		return errors.New("listen: no delivery")
	}
	l.mu.Lock()
	l.last = d
	l.mu.Unlock()
	return l.send(ctx, d, "")
}

// again sends the last delivery once more.
func (l *listener) again(ctx context.Context) {
	l.mu.Lock()
	d := l.last
	l.mu.Unlock()
	if d == nil {
		l.screen.complain("there has been no delivery yet")
		return
	}
	_ = l.send(ctx, d, "again") // it was shown
}

// send is one try. The error says what is wrong with the answer.
func (l *listener) send(ctx context.Context, d *client.Delivery, note string) error {
	shown := shownDelivery{at: time.Now(), delivery: d, note: note}
	if l.dest != nil {
		ev := wire.ToEvent(d.Stored)
		ctx, cancel := context.WithTimeout(ctx, l.timeout)
		res := l.dest.Send(ctx, &destination.Message{
			Event: &ev, Delivery: &event.Delivery{Event: ev.ID, Subscription: l.name, Round: d.Round, Attempt: d.Attempt},
			TraceParent: ev.TraceParent, Now: shown.at,
		})
		cancel()
		shown.forwarded, shown.status, shown.latency, shown.err = true, res.Status, res.Latency, res.Err
		if res.Verdict != destination.Accepted && shown.err == nil {
			shown.err = fmt.Errorf("status %d", res.Status)
		}
	}
	if err := l.screen.show(&shown); err != nil {
		return err // nobody saw it
	}
	return shown.err
}

// shownDelivery is one line of output.
type shownDelivery struct {
	at        time.Time
	delivery  *client.Delivery
	note      string
	forwarded bool
	status    int
	latency   time.Duration
	err       error
}

// compact is the line for people.
func (s *shownDelivery) compact() []byte {
	d := s.delivery
	result := "received"
	switch {
	case s.status != 0:
		result = strconv.Itoa(s.status)
	case s.err != nil:
		result = "failed"
	}
	parts := []string{s.at.Format(time.TimeOnly), oneLine(d.Event.Type), oneLine(d.Event.DeliveryID), result}
	if s.forwarded {
		parts = append(parts, short(s.latency))
	}
	if d.Attempt > 1 {
		parts = append(parts, "attempt "+strconv.Itoa(d.Attempt))
	}
	if d.Round > 1 {
		parts = append(parts, "round "+strconv.Itoa(d.Round))
	}
	if s.note != "" {
		parts = append(parts, s.note)
	}
	if s.err != nil {
		parts = append(parts, oneLine(s.err.Error()))
	}
	return []byte(strings.Join(parts, "  ") + "\n")
}

// json is the line for programs.
func (s *shownDelivery) json() ([]byte, error) {
	d := s.delivery
	doc, err := eventJSON(d.Stored)
	if err != nil {
		return nil, err
	}
	line := struct {
		Time         time.Time       `json:"time"`
		Subscription string          `json:"subscription"`
		WebhookID    string          `json:"webhookId"`
		Round        int             `json:"round"`
		Attempt      int             `json:"attempt"`
		Again        bool            `json:"again,omitempty"`
		Status       int             `json:"status,omitempty"`
		LatencyMS    float64         `json:"latencyMs,omitempty"`
		Error        string          `json:"error,omitempty"`
		Event        json.RawMessage `json:"event"`
	}{
		Time: s.at, Subscription: d.Subscription, WebhookID: d.Event.DeliveryID, Round: d.Round, Attempt: d.Attempt, Again: s.note != "",
		Status: s.status, LatencyMS: float64(s.latency) / float64(time.Millisecond), Event: doc,
	}
	if s.err != nil {
		line.Error = s.err.Error()
	}
	raw, err := marshal(line)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// A listenScreen is where `listen` writes and is told what to do. In a terminal it
// reads keys as they are struck.
type listenScreen struct {
	in      io.Reader
	mu      sync.Mutex
	out     io.Writer
	err     io.Writer
	format  listenOutput
	restore func()
	raw     bool

	shown, failed int // guarded by mu
}

func (a *app) newListenScreen(f *listenFlags) *listenScreen {
	s := &listenScreen{in: a.stdin, out: a.stdout, err: a.stderr, format: f.output, restore: func() {}}
	if !isTerminal(a.stdin) || !isTerminal(a.stdout) {
		if isTerminal(a.stdin) {
			s.in = nil // it is for something else
		}
		return s
	}
	in, ok := a.stdin.(*os.File)
	if !ok {
		return s
	}
	was, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return s // lines do, too
	}
	s.raw = true
	s.restore = sync.OnceFunc(func() {
		_ = term.Restore(int(in.Fd()), was) // there is no other way to
	})
	return s
}

func (s *listenScreen) write(to io.Writer, line []byte) error {
	if s.raw { // the terminal does not return the carriage by itself
		line = bytes.ReplaceAll(line, []byte("\n"), []byte("\r\n"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := to.Write(line)
	return err
}

func (s *listenScreen) greet(name string, dest destination.Destination, f *listenFlags) {
	if s.format == listenQuiet && dest == nil {
		return
	}
	text := "listening on subscription " + name
	if dest != nil {
		text += ", forwarding to " + dest.String()
		if f.made {
			text += "\nsigned with " + f.secret
		}
	}
	if s.raw {
		text += "\nr sends the last delivery again, q ends"
	}
	_ = s.write(s.err, []byte(text+"\n")) // a greeting
}

// complain tells what went wrong.
func (s *listenScreen) complain(text string) {
	_ = s.write(s.err, []byte("posthorn: "+strings.TrimSpace(text)+"\n")) // there is nowhere else to say it
}

// sum tells at the end what has not been shown in full.
func (s *listenScreen) sum() {
	s.mu.Lock()
	shown, failed := s.shown, s.failed
	s.mu.Unlock()
	if s.format == listenQuiet {
		_ = s.write(s.err, fmt.Appendf(nil, "tries: %d, failed: %d\n", shown, failed)) // a farewell
	}
}

func (s *listenScreen) show(d *shownDelivery) error {
	s.mu.Lock()
	s.shown++
	if d.err != nil {
		s.failed++
	}
	s.mu.Unlock()
	var line []byte
	switch s.format {
	case listenQuiet:
		switch {
		case d.err != nil:
			return s.write(s.err, d.compact())
		case d.forwarded:
			return nil
		}
		line = []byte(oneLine(d.delivery.Event.DeliveryID) + "\n")
	case listenJSON:
		var err error
		if line, err = d.json(); err != nil {
			return err
		}
	default:
		line = d.compact()
	}
	return s.write(s.out, line)
}

// keys obeys what is typed until nothing more is.
func (s *listenScreen) keys(quit, again func()) {
	if s.in == nil {
		return
	}
	in := bufio.NewScanner(s.in)
	if s.raw {
		in.Split(bufio.ScanBytes)
	}
	for in.Scan() {
		switch in.Text() {
		case "r", "R":
			again()
		case "q", "Q", "\x03", "\x04": // and Ctrl-C, Ctrl-D, which a raw terminal hands on
			quit()
		}
	}
}
