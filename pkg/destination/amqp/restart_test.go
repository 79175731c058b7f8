package amqp

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/amqp/rabbittest"
	"github.com/posthornhq/posthorn/pkg/destination"
)

// A5, A7: the broker goes away in the middle, once as an operator ends it and once
// as a crash does. Nothing that was confirmed is lost, and a message is there
// twice only if its confirmation was lost, which the later one says.
func TestNothingIsLostWhenTheBrokerRestartsWhilePublishing(t *testing.T) {
	t.Parallel()
	const messages, workers = 20_000, 64
	s := rabbittest.Start(t)
	s.Queue("out", "out", "#")
	a := open(t, newPool(t, Config{}), spec(s, "out"))

	var next, failed atomic.Int32
	halfway := make(chan struct{})
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				n := int(next.Add(1))
				if n > messages {
					return
				}
				if n == messages/2 {
					close(halfway)
				}
				m := message(fmt.Sprint(n), "order.created")
				for r := send(t, a, m); r.Verdict != destination.Accepted; r = send(t, a, m) {
					if r.Verdict != destination.NoAnswer {
						t.Errorf("message %d: %+v, want an attempt without an answer", n, r)
						return
					}
					failed.Add(1)
					m.Delivery.Attempt++
					<-time.After(100 * time.Millisecond) // a policy's backoff
				}
			}
		})
	}
	<-halfway
	s.Restart()
	s.Kill()
	s.Restart()
	wg.Wait()
	if failed.Load() == 0 {
		t.Error("no attempt failed; the broker was not away while messages were sent")
	}

	attempts := map[string][]int32{} // by message
	depth := s.Depth("out")
	deliveries, err := s.Channel().Consume("out", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		d := <-deliveries
		n, _ := d.Headers["posthorn-attempt"].(int32)
		attempts[d.MessageId] = append(attempts[d.MessageId], n)
	}
	twice := checkAttempts(t, attempts, messages)
	t.Logf("%d failed attempts, %d messages more than once", failed.Load(), twice)
}

// checkAttempts wants every message, and no attempt of it twice. It returns how
// many are there more than once.
func checkAttempts(t *testing.T, attempts map[string][]int32, messages int) (twice int) {
	t.Helper()
	for n := 1; n <= messages; n++ {
		got := attempts[fmt.Sprint(n)]
		if len(got) == 0 {
			t.Errorf("message %d is lost", n)
		}
		if len(got) > 1 {
			twice++
		}
		seen := map[int32]bool{}
		for _, a := range got {
			if seen[a] {
				t.Errorf("message %d is there twice with attempt %d: one could not tell which is the repeat", n, a)
			}
			seen[a] = true
		}
	}
	return twice
}
