// Package backoff computes how long to wait before each retry.
//
// A [Schedule] is a value and its delays are a pure function of the number of
// the retry, so whoever has the number (JetStream counts deliveries) needs to
// remember nothing. It promises that no delay is negative or longer than the
// schedule's maximum, however large the number. It keeps no timers and no
// state.
package backoff
