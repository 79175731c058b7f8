package event

// A Publish is one event of a batch, with its idempotency key.
type Publish struct {
	Event Event
	Key   string // empty for none
}

// A Result is the answer for one event of a batch.
type Result struct {
	Receipt Receipt
	Err     error
}
