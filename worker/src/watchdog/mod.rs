//! The watchdog: a thread of its own in every worker that looks at the event loop four times a second, says in the row what
//! is wrong with it, and writes down what is going on inside when the master asks for a report.
