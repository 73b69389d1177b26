// Of what a dashboard says about its answer only this reaches the browser: a scheduler is a
// process of a user, who may have written anything into it.
const allowed = [
  "content-type", "content-length", "content-range", "etag", "last-modified", "vary",
  "upgrade", "connection", "sec-websocket-accept", "sec-websocket-protocol",
  "sec-websocket-extensions", "date", "transfer-encoding",
  // nginx has made it lead to the same origin before.
  "location",
];

function filter(r) {
  // What does not begin as an answer of HTTP nginx takes for one of HTTP/0.9, and passes it on
  // with no header of its own: whole answers, cookies included, could be written that way.
  if (r.httpVersion === "0.9") throw new Error("the dashboard does not answer in HTTP");
  for (const name in r.headersOut) {
    if (allowed.indexOf(name.toLowerCase()) < 0) delete r.headersOut[name];
  }
}

export default { filter };
