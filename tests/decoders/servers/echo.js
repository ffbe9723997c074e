// node echo.js PORT SERVER: what Node's URL, or Express (with qs), makes of a request.
const http = require('http')
const [port, server] = [Number(process.argv[2]), process.argv[3]]
const latin = s => Buffer.from(String(s), 'utf8').toString('latin1')
const leaves = v => v !== null && typeof v === 'object' ? Object.values(v).flatMap(leaves) : [latin(v)]
const answer = (path, query) => JSON.stringify({ path: latin(path), query: Object.fromEntries(Object.entries(query).map(([k, v]) => [latin(k), leaves(v)])) })

if (server === 'express') {
  const app = require('express')()
  app.set('query parser', 'extended')
  // Segments are decoded one by one, when a route has matched.
  app.use((q, r) => r.send(answer(q.path.split('/').map(decodeURIComponent).join('/'), q.query)))
  app.use((e, q, r, next) => r.status(400).send(e.name))
  app.listen(port, '127.0.0.1')
} else {
  http.createServer((q, r) => {
    try {
      const u = new URL(q.url, 'http://x'), query = {}
      for (const [k, v] of u.searchParams) (query[k] ||= []).push(v)
      r.end(answer(decodeURIComponent(u.pathname), query))
    } catch (e) { r.statusCode = 400; r.end(e.name) }
  }).listen(port, '127.0.0.1')
}
