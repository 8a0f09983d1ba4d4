# SPDX-License-Identifier: Apache-2.0
"""Errors as OpenAI's API has them, which its clients turn into exceptions of their own."""

from typing import Any

from starlette.responses import JSONResponse


class RequestError(Exception):
    """
    A request that is not answered.

    Args:
        status (`int`): The HTTP status; below 500 the client is to blame.
        message (`str`): One sentence that says what is wrong and what to do.
        code (`str`): A word for programs, such as `"invalid_image"`.
        param (`str`, *optional*): The field of the request that is wrong.
    """

    def __init__(self, status: int, message: str, code: str, param: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def to_dict(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def to_response(self) -> JSONResponse:
        return JSONResponse(self.to_dict(), self.status)
