package queue

import (
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// What pulls may still bring is what the server says, whichever of them it answers
// first, and of one that is lost nothing is left for long.
func TestALaneKnowsWhatItsPullsMayBring(t *testing.T) {
	t.Parallel()
	l := &lane{inbox: "_INBOX.x.", wake: make(chan struct{}, 1), slots: 100}
	later := time.Now().Add(time.Minute)
	check := func(what string, want int) {
		t.Helper()
		sum := 0
		for _, p := range l.pulls {
			sum += p.left
			if p.left <= 0 {
				t.Errorf("%s: a pull of %d is kept", what, p.left)
			}
		}
		if l.asked != want || sum != want {
			t.Errorf("%s: %d asked for, in pulls %d, want %d", what, l.asked, sum, want)
		}
	}
	over := func(number, lacked int) {
		l.status(&nats.Msg{Subject: l.inbox + strconv.Itoa(number), Header: nats.Header{"Status": {"408"}, "Nats-Pending-Messages": {strconv.Itoa(lacked)}}})
	}
	l.begin(10, later)
	l.begin(10, later)
	for range 12 { // the server takes turns: six of each
		l.brought()
	}
	check("twelve came", 8)
	over(1, 4)
	check("the first is over, although it was taken for filled", 4)
	over(2, 4)
	check("both are over", 0)

	l.begin(7, time.Now()) // its server dies
	l.begin(5, later)
	l.brought()
	l.brought()
	check("two of the second came", 10)
	over(4, 3)
	check("the second is over", 7)
	l.end(0, l.pulls[0].left)
	check("the first is given up", 0)
	l.brought()
	check("one of it comes all the same", 0)

	l.begin(3, later)
	l.status(&nats.Msg{Subject: l.inbox + "5", Header: nats.Header{"Status": {"409"}, "Description": {"Leadership Change"}}})
	check("a new leader knows of no pull", 0)
	if !l.pause {
		t.Error("a lane does not wait when it was refused")
	}
}
