"""The application of the article: temperatures from PostgreSQL as text and as a plot, and Prometheus metrics.

Environment: DB_HOST (required), DB_PORT, DB_NAME, DB_USER, DB_PASSWORD, LISTEN_HOST, LISTEN_PORT.
"""

import os
import socket

import psycopg2
from flask import Flask, Response, request
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from werkzeug.serving import WSGIRequestHandler

app = Flask(__name__)

REQUESTS = Counter("flask_app_requests_total", "Requests answered.", ["path", "status"])
QUERY_SECONDS = Histogram("flask_app_query_seconds", "Time to connect to the database and read all temperatures.")

PLOT_WIDTH, PLOT_HEIGHT, PLOT_MARGIN = 480, 200, 30


class KeepAliveHandler(WSGIRequestHandler):
    """HTTP/1.1 with keep-alive, which werkzeug 2 refuses to do.

    Werkzeug ends every connection because an unread request body would be taken for the next request. A request that
    announces no body has none to leave behind, so its connection may stay.
    """

    protocol_version = "HTTP/1.1"

    def _has_body(self):
        return "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0"

    def send_header(self, keyword, value):
        if keyword == "Connection" and value == "close" and not self.close_connection:
            if not self._has_body():
                return
            self.close_connection = True
        super().send_header(keyword, value)


def temperatures():
    """All rows, oldest first: (time, degrees Celsius)."""
    with QUERY_SECONDS.time():
        connection = psycopg2.connect(
            host=os.environ["DB_HOST"],
            port=os.environ.get("DB_PORT", "5432"),
            dbname=os.environ.get("DB_NAME", "weather"),
            user=os.environ.get("DB_USER", "flask"),
            password=os.environ.get("DB_PASSWORD", ""),
            connect_timeout=2,
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT at, degrees FROM temperature ORDER BY at")
                return [(at, float(degrees)) for at, degrees in cursor.fetchall()]
        finally:
            connection.close()


def plot(rows):
    """An SVG line through the temperatures."""
    degrees = [value for _, value in rows]
    low, high = min(degrees), max(degrees)
    step = (PLOT_WIDTH - 2 * PLOT_MARGIN) / max(len(degrees) - 1, 1)
    scale = (PLOT_HEIGHT - 2 * PLOT_MARGIN) / max(high - low, 0.1)
    points = " ".join(
        f"{PLOT_MARGIN + i * step:.1f},{PLOT_HEIGHT - PLOT_MARGIN - (value - low) * scale:.1f}"
        for i, value in enumerate(degrees)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}">'
        f'<polyline fill="none" stroke="steelblue" stroke-width="2" points="{points}"/>'
        f'<text x="4" y="14" font-size="12">{low:.1f} to {high:.1f} degrees, {len(rows)} readings</text>'
        "</svg>\n"
    )


@app.get("/")
def index():
    lines = [f"{at:%Y-%m-%d %H:%M} {degrees:5.1f}\n" for at, degrees in temperatures()]
    return Response(f"temperatures, served by {socket.gethostname()}\n" + "".join(lines), mimetype="text/plain")


@app.get("/plot/temp")
def plot_temp():
    return Response(plot(temperatures()), mimetype="image/svg+xml")


@app.get("/metrics")
def metrics():
    return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)


@app.errorhandler(psycopg2.Error)
def database_unreachable(error):
    app.logger.error("database: %s", error)
    return Response("database unreachable\n", status=503, mimetype="text/plain")


@app.after_request
def count(response):
    # The route, not the path that was asked for: whoever asks would otherwise choose how many series there are.
    REQUESTS.labels(request.url_rule.rule if request.url_rule else "none", response.status_code).inc()
    return response


if __name__ == "__main__":
    app.run(
        host=os.environ.get("LISTEN_HOST", "::"),
        port=int(os.environ.get("LISTEN_PORT", "5000")),
        threaded=True,
        request_handler=KeepAliveHandler,
    )
