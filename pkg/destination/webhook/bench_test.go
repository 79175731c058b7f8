package webhook

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/destination"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// benchmarkMessage has 512 bytes of data and what the platform adds to an event.
func benchmarkMessage() *destination.Message {
	m := newMessage(`{"data":"` + strings.Repeat("x", 501) + `"}`)
	m.Event.ID = "ev_01KAJ3Q6ZJ5S1V8X0Y2T4W6R9M"
	m.Event.Time = now
	m.Event.CorrelationIDs = []string{"gw.1-5f9b3a10-0123456789abcdef01234567", "eb.1-5f9b3a10-0123456789abcdef01234567"}
	m.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	return m
}

func BenchmarkRequest(b *testing.B) {
	for _, format := range []posthornv1.Webhook_Format{posthornv1.Webhook_CLOUDEVENTS_BINARY, posthornv1.Webhook_CLOUDEVENTS_STRUCTURED, posthornv1.Webhook_RAW} {
		b.Run(format.String(), func(b *testing.B) {
			w := newWebhook(b, newClient(b, Config{}), &posthornv1.Webhook{Url: "https://erp.example/hooks", Headers: map[string]string{"X-Env": "prod"}, Format: format})
			m, ctx := benchmarkMessage(), b.Context()
			b.ReportAllocs()
			for b.Loop() {
				w.newRequest(ctx, m)
			}
		})
	}
}

// serveBare answers 204 without allocating, so that what is measured is ours.
func serveBare(b *testing.B) string {
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { lis.Close() })
	go func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			go answerBare(conn)
		}
	}()
	return "http://" + lis.Addr().String() + "/hooks"
}

func answerBare(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	answer := []byte("HTTP/1.1 204 No Content\r\n\r\n")
	for {
		length := 0
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				break
			}
			if n, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
				length, _ = strconv.Atoi(string(bytes.TrimSpace(n)))
			}
		}
		if _, err := r.Discard(length); err != nil {
			return
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

// BenchmarkSend is one attempt after the other, server included.
func BenchmarkSend(b *testing.B) {
	w := newWebhook(b, newClient(b, Config{}), &posthornv1.Webhook{Url: serveBare(b)})
	m := benchmarkMessage()
	b.ReportAllocs()
	for b.Loop() {
		attempt(b, w, m)
	}
}

// BenchmarkSendParallel is 64 attempts at a time.
func BenchmarkSendParallel(b *testing.B) {
	w := newWebhook(b, newClient(b, Config{}), &posthornv1.Webhook{Url: serveBare(b)})
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		m := benchmarkMessage()
		for pb.Next() {
			attempt(b, w, m)
		}
	})
}

func attempt(b *testing.B, w *Webhook, m *destination.Message) {
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	if r := w.Send(ctx, m); r.Verdict != destination.Accepted {
		b.Errorf("result is %+v, want accepted", r)
	}
}

// BenchmarkFloor is what net/http itself costs: the same bytes, nothing signed.
func BenchmarkFloor(b *testing.B) {
	c := newClient(b, Config{})
	url, body := serveBare(b), string(benchmarkMessage().Event.Data)
	b.ReportAllocs()
	for b.Loop() {
		ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		resp, err := c.transport.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		cancel()
	}
}
