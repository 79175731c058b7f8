// Package transform makes the data that is sent from the data that is stored,
// by a subscription's program in the language of jq.
//
// A program sees the data of one event and nothing else: no other input, no
// environment, no files, no clock. So it makes the same of the same data at each
// try, and what a retry sends is what the try before has sent. It is bounded in
// steps, in time and in the size of the values that it works with; a program that
// would need more fails, and what it was for is not sent.
//
// Integers keep their value, however long (up to 1,000 digits). Other numbers are
// floating point of 64 bits: 1.10 is sent as 1.1. Keys of objects are sent in
// alphabetical order.
package transform
