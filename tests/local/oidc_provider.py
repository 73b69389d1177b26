"""A provider of OpenID Connect for tests: django-oauth-toolkit, with TLS, as a process.

Arguments: folder for its files, certificate, key, port, address to send browsers back to.
"""

import pwd
import ssl
import sys
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

import django
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings

folder, certificate, key, port, back = sys.argv[1:]
signing = rsa.generate_private_key(65537, 2048).private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)


LOGIN = "<form method=post>{% csrf_token %}{{ form }}</form>"
settings.configure(
    DEBUG=False,
    SECRET_KEY="of a test",
    ALLOWED_HOSTS=["localhost"],
    ROOT_URLCONF="oidc_urls",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "oauth2_provider",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{folder}/db"}},
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "loaders": [
                    (
                        "django.template.loaders.locmem.Loader",
                        {"registration/login.html": LOGIN},
                    )
                ]
            },
        }
    ],
    LOGIN_URL="/login",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    OAUTH2_PROVIDER={
        "OIDC_ENABLED": True,
        "OIDC_RSA_PRIVATE_KEY": signing.decode(),
        "OIDC_ISS_ENDPOINT": f"https://localhost:{port}/o",
        "PKCE_REQUIRED": True,
        "SCOPES": {"openid": "who you are", "profile": "your name"},
        "OAUTH2_VALIDATOR_CLASS": "oidc_urls.Validator",
    },
)
urls = type(sys)("oidc_urls")
sys.modules["oidc_urls"] = urls
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.contrib.auth.views import LoginView  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.urls import include, path  # noqa: E402
from oauth2_provider.models import Application  # noqa: E402
from oauth2_provider.oauth2_validators import OAuth2Validator  # noqa: E402


class Validator(OAuth2Validator):
    """Says the name of the user."""

    oidc_claim_scope = {  # noqa: RUF012  # as there
        **OAuth2Validator.oidc_claim_scope,
        "preferred_username": "profile",
    }

    def get_additional_claims(self, request):
        return {"preferred_username": request.user.username}


urls.Validator = Validator
urls.urlpatterns = [
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
    path("login", LoginView.as_view()),
]
call_command("migrate", verbosity=0)
for name in ("sync", "root", "nobody-here", str(pwd.getpwnam("sync").pw_uid)):
    User.objects.create_user(name, password="of a test")
Application.objects.create(
    client_id="dask",
    client_secret="between them",
    client_type="confidential",
    authorization_grant_type="authorization-code",
    redirect_uris=back,
    algorithm="RS256",
    skip_authorization=True,
)


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
with make_server("127.0.0.1", int(port), get_wsgi_application(), Server) as server:
    server.socket = context.wrap_socket(server.socket, server_side=True)
    (Path(folder) / "up").touch()
    server.serve_forever()
