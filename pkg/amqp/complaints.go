package amqp

import "time"

// How often a complaint is due: one that is new, and one that goes on.
const (
	newComplaint  = 5 * time.Second
	sameComplaint = time.Minute
)

// Complaints bounds what a loop that goes on for ever says in the log. The zero
// value has said nothing.
type Complaints struct {
	said string
	at   time.Time
}

// Due reports whether to say text now: at first, when it is another one and the
// last was not a moment ago, and once a minute.
func (c *Complaints) Due(text string, now time.Time) bool {
	after := newComplaint
	if text == c.said {
		after = sameComplaint
	}
	if c.said != "" && now.Sub(c.at) < after {
		return false
	}
	c.said, c.at = text, now
	return true
}

// Over says that what was complained about is.
func (c *Complaints) Over() { c.said = "" }
