// Package slowbody bounds how slowly the body of an HTTP request may come.
//
// A body that drips, or stops in the middle, keeps a connection, a goroutine and
// what was read so far for as long as its sender likes; the timeouts of net/http end
// either that or the long poll of a well-behaved client. [Handler] gives a body a
// while to begin, and then wants it at a rate.
//
// It promises that a body which is late ends its connection, whether the handler
// reads it or not, and that a request whose body has come, or that has none, may take
// as long as it likes.
package slowbody
